"""Laws that every shipped calibration satisfies, on shapes drawn at random from 1 to 2^20."""

import inspect
from functools import cache

import numpy as np
import pytest

from perfmodel.costs.attention import attention_bound
from perfmodel.costs.collective_bounds import collective_bound
from perfmodel.costs.compute import roofline_bound
from perfmodel.costs.expert_traffic import ranks_reached
from perfmodel.costs.formats import FORMATS
from perfmodel.costs.kernel_bounds import experts_bound, gemm_bound
from perfmodel.costs.registry import get_formula
from perfmodel.estimate.kernel_checks import check_kernel
from perfmodel.estimate.timing import call_form, device_numbers
from perfmodel.hardware import list_devices, load_device, load_system
from perfmodel.hardware.kernel_files import read_calibrations
from perfmodel.hardware.places import builtin_directory

FOLDER = builtin_directory() / "calibrations"
FILES = sorted(FOLDER.rglob("*.toml"))
POINTS = 400
SLACK = 1 + 1e-9

OPERATORS = {
    "gemm": {"gemm_tiled", "tile_rounds_gemm"},
    "prefill_attention": {"prefill_attention_tiled", "balanced_attention"},
    "prefill_mla": {"prefill_attention_tiled", "balanced_attention"},
    "decode_attention": {"decode_attention_split", "balanced_attention"},
    "decode_mla": {"decode_attention_split", "balanced_attention"},
    "moe": {"experts_grouped", "tile_rounds_experts"},
    "pass": {"roofline_time"},
    "all_reduce": {"nccl_collective", "custom_all_reduce"},
    "all_gather": {"nccl_collective"},
    "reduce_scatter": {"nccl_collective"},
    "all_to_all": {"nccl_collective"},
    "dispatch": {"deepep_normal", "deepep_low_latency", "store_exchange"},
    "combine": {"deepep_normal", "deepep_low_latency", "store_exchange"},
}
"""Which formulas may time an operator."""

by_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(FOLDER).with_suffix("").as_posix())


@cache
def kernels(path):
    return read_calibrations(path, "default" if path.parent.name == "defaults" else "measured")


@cache
def device_of(path):
    """The device that a file is about; for the defaults of an architecture, some device of it."""
    if path.parent.name != "defaults":
        return load_device(path.parent.name)
    devices = [load_device(name) for name in list_devices()]
    return next((d for d in devices if d.architecture == path.stem), load_device("mi300x"))


def label(kernel):
    return " ".join(filter(None, (kernel.operator, kernel.format, kernel.kv_format, kernel.kernel, kernel.version)))


def whole(rng, low, high):
    """Whole numbers, even on a logarithmic scale, the ends included."""
    drawn = np.floor(np.exp(rng.uniform(np.log(low), np.log(high + 1), POINTS)))
    return np.concatenate([[low, high], drawn[2:]])


def sizes_of(kernel, rng):
    """Random sizes of an operator, those of a model and far beyond."""
    op = kernel.operator
    if op == "gemm":
        return {name: whole(rng, 1, 2**20) for name in ("tokens", "out_features", "in_features")} | {
            "weight_copies": rng.choice([1.0, 6.0, np.inf], POINTS)
        }
    if op.endswith("attention") or op.endswith("mla"):
        latent, decode = op.endswith("mla"), op.startswith("decode")
        kv_heads, group = whole(rng, 1, 64), whole(rng, 1, 64)
        heads = kv_heads * group
        dim = rng.choice([64.0, 80.0, 96.0, 128.0, 192.0, 256.0, 512.0], POINTS)
        sizes = {
            "batch": whole(rng, 1, 2**20),
            "tokens": np.ones(POINTS) if decode else whole(rng, 1, 2**20),
            "context": whole(rng, 1, 2**20),
            "heads": heads,
            "kv_heads": (np.ones(POINTS) if decode else heads) if latent else kv_heads,
            "qk_head_dim": np.full(POINTS, 576.0 if decode else 192.0) if latent else dim,
            "v_head_dim": np.full(POINTS, 512.0 if decode else 128.0) if latent else dim,
            "window": np.zeros(POINTS) if latent else whole(rng, 1, 2**20) * rng.integers(0, 2, POINTS),
            "query_bytes": FORMATS[kernel.format or "bf16"].activation_bytes,
            "kv_bytes": FORMATS[kernel.kv_format or "bf16"].activation_bytes,
            "kv_elements": np.full(POINTS, 576.0) if latent and decode else None,
            "shared_kv": latent and decode,
        }
        sizes["context"] = np.maximum(sizes["context"], sizes["tokens"])
        return sizes
    if op == "moe":
        experts = 2.0 ** rng.integers(0, 10, POINTS)
        return {
            "tokens": whole(rng, 1, 2**20),
            "hidden": whole(rng, 64, 2**15),
            "intermediate": whole(rng, 64, 2**15),
            "experts": experts,
            "topk": np.minimum(whole(rng, 1, 32), experts),
            "expert_ranks": np.minimum(2.0 ** rng.integers(0, 7, POINTS), experts),
            "tensor_ranks": 2.0 ** rng.integers(0, 4, POINTS),
            "gated": rng.integers(0, 2, POINTS) > 0,
            "skew": rng.choice([0.0, 0.6, 1.2], POINTS),
            "random": rng.integers(0, 2, POINTS) > 0,
            "warm": rng.integers(0, 2, POINTS) > 0,
        }
    if op in ("dispatch", "combine"):
        return {
            "tokens": whole(rng, 1, 2**17),
            "hidden": whole(rng, 64, 2**15),
            "topk": whole(rng, 1, 16),
            "experts": 2.0 ** rng.integers(5, 11, POINTS),
            "ranks": 2.0 ** rng.integers(1, 7, POINTS),
            "sms": rng.choice([8.0, 16.0, 24.0, 32.0], POINTS),
        }
    if op == "pass":
        return {"flops": whole(rng, 1, 2**50), "nbytes": whole(rng, 1, 2**40)}
    return {"nbytes": whole(rng, 1, 2**40), "ranks": whole(rng, 2, 64)}


def numbers_of(kernel, device):
    system = load_system(device.default_system)
    latent = kernel.operator.endswith("mla") and kernel.kv_format == "fp8"  # these kernels multiply in 8 bits
    return {
        **device_numbers(device, "fp8" if latent else kernel.format or "bf16"),
        "bandwidth": system.scale_up.bandwidth,
        "op": kernel.operator,
    }


def accepted(function, *mappings):
    """The arguments that a function takes."""
    wanted = inspect.signature(function).parameters
    return {key: value for given in mappings for key, value in given.items() if key in wanted}


def bound_of(kernel, sizes, numbers):
    """Time that no kernel can beat."""
    op = kernel.operator
    if op == "gemm":
        return gemm_bound(**accepted(gemm_bound, numbers, sizes))
    if op == "moe":
        sent = {"input_bytes": numbers["activation_bytes"]} if kernel.form == "tile_rounds_experts" else {}
        return experts_bound(**accepted(experts_bound, numbers, sizes, sent))
    if op in ("dispatch", "combine"):
        reached = ranks_reached(sizes["topk"], sizes["experts"], sizes["ranks"])
        width = sizes["hidden"] * kernel.attributes.get("element_bytes", 2.0)
        return sizes["tokens"] * width * reached * (1 - 1 / sizes["ranks"]) / numbers["bandwidth"]
    if op in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all"):
        return collective_bound(sizes["nbytes"], sizes["ranks"], bandwidth=numbers["bandwidth"], op=op)
    if op == "pass":
        return roofline_bound(**accepted(roofline_bound, numbers, sizes))
    bound = attention_bound(**accepted(attention_bound, numbers, sizes))
    if kernel.attributes.get("absorbed"):  # may read the short latent vectors instead of expanded keys and values
        shape = {"kv_heads": 1.0, "qk_head_dim": 576.0, "v_head_dim": 512.0, "kv_elements": 576.0}
        bound = np.minimum(bound, attention_bound(**accepted(attention_bound, numbers, sizes | shape)))
    return bound


def cases(path):
    """Every kernel of a file with random sizes, the device's numbers and its times."""
    device = device_of(path)
    for n, kernel in enumerate(kernels(path)):
        sizes, numbers = sizes_of(kernel, np.random.default_rng(n)), numbers_of(kernel, device)
        yield kernel, sizes, numbers, np.asarray(call_form(kernel, sizes, numbers))


def test_there_are_calibrations_of_every_operator():
    assert len(FILES) >= 40
    assert {kernel.operator for path in FILES for kernel in kernels(path)} == set(OPERATORS)


@by_file
def test_every_kernel_fits_its_formula(path):
    for kernel in kernels(path):
        check_kernel(kernel)  # formula, coefficients, their bounds, attributes
        assert kernel.form in OPERATORS[kernel.operator], label(kernel)
        assert set(kernel.coefficients) <= set(inspect.signature(get_formula(kernel.form).function).parameters)


@by_file
def test_no_efficiency_exceeds_one(path):
    for kernel in kernels(path):
        for name, value in kernel.coefficients.items():
            if name.endswith("efficiency"):
                assert 0 < value <= 1, f"{label(kernel)}: {name} = {value}"


@by_file
def test_provenance_is_complete(path):
    for kernel in kernels(path):
        provenance = kernel.provenance
        assert len(provenance["dataset"]) > 10, label(kernel)
        assert "20" in provenance["date"], label(kernel)
        assert provenance["points"] >= 20 or provenance.get("published"), label(kernel)
        if kernel.basis == "measured":
            assert kernel.version, label(kernel)
        if kernel.basis == "measured" and not provenance.get("published"):
            assert kernel.engine, label(kernel)
            assert provenance["heldout_mape"] >= provenance["heldout_median"] / 3, label(kernel)


@by_file
def test_times_are_finite_and_never_below_the_bound(path):
    broken = []
    for kernel, sizes, numbers, seconds in cases(path):
        bound = np.broadcast_to(bound_of(kernel, sizes, numbers), seconds.shape)
        assert np.isfinite(seconds).all(), label(kernel)
        assert (seconds > 0).all(), label(kernel)
        below = seconds * SLACK < bound
        if below.any():
            broken.append(f"{label(kernel)}: {below.mean():.0%} of the shapes, down to {(seconds / bound).min():.4f}")
    assert not broken, "\n".join(broken)


@by_file
def test_faster_hardware_is_never_slower(path):
    broken = []
    for kernel, sizes, numbers, seconds in cases(path):
        for rate in ("peak_flops", "memory_bandwidth", "bandwidth"):
            for factor in (1.1, 3.0):
                faster = np.asarray(call_form(kernel, sizes, numbers | {rate: numbers[rate] * factor}))
                if (faster > seconds * SLACK).any():
                    broken.append(f"{label(kernel)}: {rate} x {factor}: x {(faster / seconds).max():.6f}")
    assert not broken, "\n".join(broken)
