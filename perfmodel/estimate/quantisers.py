"""Kernels that bring activations into a block-scaled format before a product, where products are timed without them."""

from collections.abc import Iterable

from perfmodel.arrays import as_floats
from perfmodel.costs.formats import get_format
from perfmodel.estimate.target import Target
from perfmodel.layers.moe import SHARED
from perfmodel.layers.operators import Gemm, Operator, Pass

BLOCK_SCALED = "fp8_block"
"""Format whose scales depend on the activations, so that no kernel before can know them."""


def with_quantisers(operators: Iterable[Operator], target: Target) -> tuple[Operator, ...]:
    """Put a pass that quantises before each product in 8 bits with scales per block.

    Parameters
    ----------
    operators : iterable of Operator
        What one device does in a layer.
    target : Target
        Its engine says on which architectures products are timed without that pass.

    Returns
    -------
    tuple of Operator
        The same operators, with passes between them.
    """
    apart = {"all", target.device.architecture} & set(target.engine.quantises_apart)
    if not apart or get_format(BLOCK_SCALED).peak not in target.device.peak_flops:
        return tuple(operators)
    out: list[Operator] = []
    for op in operators:
        if isinstance(op, Gemm) and op.format == BLOCK_SCALED:
            out.append(_quantiser(op))
        out.append(op)
    return tuple(out)


def _quantiser(op: Gemm) -> Pass:
    each = get_format("bf16").activation_bytes + get_format(op.format).activation_bytes
    moved = as_floats(op.tokens) * op.in_features * each
    # Its name says whether it runs beside the routed experts, as its product does.
    return Pass(f"{SHARED if op.name.startswith(SHARED) else ''}quantisation", moved, count=op.count)
