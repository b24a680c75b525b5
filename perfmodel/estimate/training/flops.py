"""Floating-point operations of a training step under the conventions of MFU and HFU."""

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.layers.base import Shard, Step
from perfmodel.layers.latent import LIFTING
from perfmodel.layers.operators import Attention
from perfmodel.layers.precision import Precision
from perfmodel.models.spec import ModelSpec

CONVENTIONS = {
    "mfu": "6 FLOP per token and multiplied weight, attention scores not halved by the causal mask, nothing recomputed",
    "hfu": "as MFU, with the recomputed forward passes counted",
}
"""What the two utilisations count."""


def _attention_flops(model: ModelSpec, seq: float) -> float:
    """Forward operations of all attention cores for one sequence, masked pairs included."""
    step = Step(1.0, seq, seq, decode=False)
    flops = 0.0
    for block, count in model.blocks:
        for op in block.operators(step, Shard(), Precision()):
            if isinstance(op, Attention):
                keys = min(float(op.window) or seq, seq)
                pairs = seq * keys * float(as_floats(op.heads))
                flops += count * 2.0 * pairs * (op.qk_head_dim + op.v_head_dim)
    return flops


def step_flops(
    model: ModelSpec,
    seq: float,
    global_batch: Floats,
    recompute: Floats,
    share: Floats = 1.0,
    method: str = "full",
    visited: Floats = 1.0,
) -> tuple[Floats, Floats]:
    """Operations of one step: the model's own, and those done.

    Parameters
    ----------
    model : ModelSpec
        Model.
    seq : float
        Tokens of a sequence.
    global_batch : float or array
        Sequences of the step.
    recompute : float or array
        Position in `perfmodel.costs.training.RECOMPUTE`.
    share : float or array
        Part of the layers that full recomputation is applied to.
    method : str
        What is learned: adapters have no weight gradients of frozen weights, forward-only steps two forward passes.
    visited : float or array
        Part of the layers that a sequence passes.

    Returns
    -------
    tuple of float or array
        For MFU and for HFU [FLOP].
    """
    layers = as_floats(visited) * sum(count * block.active_parameters() for block, count in model.blocks)
    lifting = as_floats(visited) * sum(
        count * tensor.active for block, count in model.blocks for tensor in block.tensors() if tensor.name in LIFTING
    )
    head = sum(tensor.active for tensor in model.head.tensors())
    attention = as_floats(visited) * _attention_flops(model, seq)
    batch = as_floats(global_batch)
    forward = 2.0 * (layers + head) * seq + attention
    again = np.where(np.equal(recompute, 4), 2.0 * lifting * seq, 0.0)
    again = np.where(np.equal(recompute, 1), attention, again)
    again = np.where(np.equal(recompute, 2), as_floats(share) * (2.0 * layers * seq + attention), again)
    if method == "forward":
        return 2.0 * forward * batch, 2.0 * forward * batch
    # Attention has no weights: its backward pass is whole with frozen weights too.
    own = 3.0 * forward if method == "full" else 2.0 * forward + attention
    return own * batch, (own + again) * batch
