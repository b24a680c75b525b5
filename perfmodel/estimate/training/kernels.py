"""Seconds of training kernels on one device: products, attention and passes under a software stack."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from perfmodel.arrays import Array, Floats, as_floats, common_shape, in_rows
from perfmodel.costs.compute import roofline_time
from perfmodel.costs.formats import get_format
from perfmodel.costs.training_kernels import batched_product_time, pointwise_time
from perfmodel.estimate.timing import call_form, device_numbers
from perfmodel.estimate.training.target import TrainingTarget
from perfmodel.hardware.kernels import KernelCalibration
from perfmodel.layers.operators import Attention
from perfmodel.layers.training_recipe import TrainingRecipe
from perfmodel.layers.training_work import Product
from perfmodel.recording import FEW

UNFUSED_SHARE = 0.8
"""Sustained rate of small batched products over that of large products: an assumption, not fitted."""

FLASH_BACKWARD = 2.5 / 0.8
"""Backward over forward time of fused attention: five products instead of two, at four fifths of the rate.

Dao 2023 (arXiv:2307.08691): the backward pass has 2.5 times the operations; its figures 4 to 6 show 0.75 to 0.85 of
the forward rate.
"""

ENGINES = {"bf16": "sglang", "fp16": "sglang", "fp32": "sglang", "tf32": "sglang"}
"""Whose measured kernels come first, by format: in 16 bits SGLang, which calls PyTorch's linear layer and the
FlashAttention library as trainers do; for narrower formats TensorRT-LLM, which calls cuBLASLt as Transformer Engine
does."""

_QUANTISED = ("fp8", "fp8_block", "mxfp8", "nvfp4", "int8", "mxfp4")


_CLOCKED = {"fill_bandwidth": -1.0, "store_bandwidth": -1.0, "tile_s": 1.0, "depth_s": 1.0}
"""Coefficients that follow the clock of the multiprocessors, as rates or as times."""


def _at_clock(calibration: KernelCalibration, slowdown: float) -> KernelCalibration:
    """Calibration of a device that runs at a lower clock than when it was measured."""
    scaled = {n: v * slowdown ** _CLOCKED[n] for n, v in calibration.coefficients.items() if n in _CLOCKED}
    return replace(calibration, coefficients={**calibration.coefficients, **scaled})


@dataclass(frozen=True, slots=True)
class Kernels:
    """Times kernels of one target in one precision recipe.

    Parameters
    ----------
    target : TrainingTarget
        System, calibrations and stack.
    recipe : TrainingRecipe
        Number formats.
    """

    target: TrainingTarget
    recipe: TrainingRecipe

    @property
    def _slowdown(self) -> float:
        return self.target.stack.slowdown(self.target.device.architecture)

    def peak_flops(self) -> float:
        """Dense peak of the format that the layers' products run in [FLOP/s]."""
        return float(device_numbers(self.target.device, self.recipe.linear)["peak_flops"])

    def _calibration(self, format: str) -> KernelCalibration | None:
        kernels = self.target.kernels
        found = kernels.find("gemm", format, engine=ENGINES.get(format, "trtllm"))
        if found is None or format not in _QUANTISED:
            return found
        # Quantising is a pass of its own here, so the product's own launch and main loop are wanted without it.
        plain = kernels.find("gemm", "bf16", engine=ENGINES["bf16"])
        coefficients = dict(found.coefficients)
        if plain is not None and found.attributes.get("quantise"):
            coefficients["launch_s"] = plain.coefficients.get("launch_s", 2.5e-6)
        attributes = {k: v for k, v in found.attributes.items() if k not in ("quantise", "host")}
        return replace(found, coefficients=coefficients, attributes=attributes)

    def gemm(
        self, tokens: Floats, out_features: Floats, in_features: Floats, format: str, output_bytes: Floats
    ) -> Floats:
        """Time of one matrix product.

        Parameters
        ----------
        tokens, out_features, in_features : float or array
            Rows, columns and depth.
        format : str
            Operand format.
        output_bytes : float or array
            Bytes per element of the result [B].

        Returns
        -------
        float or array
            Time [s].
        """
        numbers: dict[str, Any] = device_numbers(self.target.device, format) | {"output_bytes": output_bytes}
        f = get_format(format)
        # Both operands of a training product are quantised activations or weights of the same width.
        numbers["weight_bytes"] = numbers["activation_bytes"] = f.activation_bytes
        # A lower clock slows the matrix units and what feeds them, not the memory.
        numbers["peak_flops"] /= self._slowdown
        sizes = {"tokens": tokens, "out_features": out_features, "in_features": in_features}
        calibration = self._calibration(format)
        if calibration is not None:
            seconds = call_form(_at_clock(calibration, self._slowdown), sizes, numbers)
        else:
            m, n, k = map(as_floats, (tokens, out_features, in_features))
            seconds = roofline_time(
                2.0 * m * n * k,
                (m * k + n * k) * f.activation_bytes + m * n * output_bytes,
                peak_flops=numbers["peak_flops"],
                memory_bandwidth=numbers["memory_bandwidth"],
            )
        work = as_floats(tokens) * out_features * in_features
        return np.where(work > 0, seconds, 0.0)

    def products(self, products: Sequence[Product]) -> list[tuple[Floats, Floats, Floats]]:
        """Times of linear layers: forward, input gradient, weight gradient.

        The products of local experts stand side by side in one grouped kernel, or follow each other.

        Parameters
        ----------
        products : sequence of Product
            Sizes on one device.

        Returns
        -------
        list of tuple of float or array
            Three times for each of them [s].
        """
        grouped, stack = self.target.stack.grouped_experts, self.target.stack
        wanted: list[tuple[Floats, Floats, Floats, str, float]] = []
        for each in products:
            # One product that is wider, or several.
            wide = each.groups if grouped else 1.0
            m, n, k = as_floats(each.tokens), as_floats(each.out_features), as_floats(each.in_features)
            out = self.recipe.activation_bytes
            wanted += [(m, n * wide, k, each.format, out), (m, k * wide, n, each.format, out)]
            wanted += [] if each.frozen else [(n, k * wide, m, each.format, stack.wgrad_bytes)]
        seconds = iter(self._gemms(wanted))
        times: list[tuple[Floats, Floats, Floats]] = []
        for each in products:
            g: Floats = 1.0 if grouped else each.groups
            forward, inputs = g * next(seconds), g * next(seconds)
            times.append((forward, inputs, 0.0 if each.frozen else g * next(seconds)))
        return times

    def _gemms(self, wanted: Sequence[tuple[Floats, Floats, Floats, str, float]]) -> list[Array]:
        """Times of matrix products; those of one format in one call where plans are few and calls take the time."""
        shape = common_shape(*(as_floats(size).shape for *sizes, _, _ in wanted for size in sizes))
        if len(shape) != 1 or shape[0] > FEW:
            return [as_floats(self.gemm(*each)) for each in wanted]
        rows = shape[0]
        found: dict[int, Array] = {}
        for format in dict.fromkeys(each[3] for each in wanted):
            places = [i for i, each in enumerate(wanted) if each[3] == format]
            sizes = [np.concatenate([in_rows(wanted[i][axis], rows) for i in places]) for axis in range(3)]
            output_bytes = np.repeat([wanted[i][4] for i in places], rows)
            seconds = as_floats(self.gemm(sizes[0], sizes[1], sizes[2], format, output_bytes))
            found |= {i: seconds[number * rows : (number + 1) * rows] for number, i in enumerate(places)}
        return [found[i] for i in range(len(wanted))]

    def cast(self, product: Product) -> tuple[Floats, Floats]:
        """Time to quantise a product's input, and its output's gradient.

        Parameters
        ----------
        product : Product
            Sizes on one device.

        Returns
        -------
        tuple of float or array
            Forward and backward time; zero in 16 and 32 bits [s].
        """
        if product.format not in _QUANTISED or not self.recipe.cast_bytes:
            return 0.0, 0.0
        rows = as_floats(product.tokens) * product.groups * self.recipe.cast_bytes
        return self.passes(rows * product.in_features, 1.0), self.passes(rows * product.out_features, 1.0)

    def passes(self, nbytes: Floats, kernels: Floats) -> Floats:
        """Time of pointwise passes.

        Parameters
        ----------
        nbytes : float or array
            Bytes read and written [B].
        kernels : float or array
            Kernels.

        Returns
        -------
        float or array
            Time [s].
        """
        stack = self.target.stack
        return self._slowdown * pointwise_time(
            nbytes,
            kernels,
            memory_bandwidth=self.target.device.memory_bandwidth,
            pointwise_efficiency=stack.pointwise_efficiency,
        )

    def attention(self, op: Attention) -> tuple[Floats, Floats]:
        """Time of the attention core, forward and backward, without its pointwise passes.

        Parameters
        ----------
        op : Attention
            Sizes on one device.

        Returns
        -------
        tuple of float or array
            Two times [s].
        """
        stack, device = self.target.stack, self.target.device
        numbers: dict[str, Any] = device_numbers(device, op.format)
        gemm = self._calibration(op.format)
        rate = gemm.coefficients.get("compute_efficiency", 0.8) if gemm else 0.8
        if stack.unfused:
            scores = as_floats(op.batch) * op.heads * op.tokens * op.context
            hardware = {
                "peak_flops": numbers["peak_flops"],
                "memory_bandwidth": device.memory_bandwidth,
                "compute_efficiency": UNFUSED_SHARE * rate,
                "pointwise_efficiency": stack.pointwise_efficiency,
            }
            both = as_floats(batched_product_time(scores, op.qk_head_dim, **hardware)) + batched_product_time(
                scores, op.v_head_dim, **hardware
            )
            return self._slowdown * both, self._slowdown * 2.0 * both
        name = "prefill_mla" if op.latent else "prefill_attention"
        calibration = self.target.kernels.find(
            name,
            op.format,
            kv_format=op.kv_format,
            # Training attends to expanded heads; SGLang's Hopper kernel for latent attention is an absorbed one.
            engine="trtllm" if op.latent else ENGINES["bf16"],
        )
        if calibration is None:
            once = roofline_time(
                op.flops() / as_floats(op.count),
                op.nbytes() / as_floats(op.count),
                peak_flops=numbers["peak_flops"],
                memory_bandwidth=device.memory_bandwidth,
                compute_efficiency=0.6,
            )
        else:
            sizes = {
                "batch": np.maximum(as_floats(op.batch), 1e-9),
                "tokens": op.tokens,
                "context": op.context,
                "heads": op.heads,
                "kv_heads": op.kv_heads,
                "qk_head_dim": op.qk_head_dim,
                "v_head_dim": op.v_head_dim,
                "window": op.window,
            }
            # Serving kernels rotate queries and write the cache besides; in training those passes are listed apart.
            extra = {name: 0.0 for name in ("query_passes", "kv_passes") if name in calibration.coefficients}
            core = replace(calibration, coefficients={**calibration.coefficients, **extra})
            once = call_form(core, sizes, numbers)
        forward = self._slowdown * stack.attention_slowdown(device.architecture) * as_floats(once)
        return forward, FLASH_BACKWARD * forward
