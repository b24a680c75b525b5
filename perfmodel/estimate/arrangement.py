"""How an engine arranges the experts and heads of a layer: its operators instead of the model's own (sizes)."""

from dataclasses import replace

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.balance import busiest_rank, rank_wait
from perfmodel.costs.formats import get_format
from perfmodel.hardware.engine import Engine, Waits
from perfmodel.layers.base import Layer, Shard, Step, share
from perfmodel.layers.latent import LatentAttention
from perfmodel.layers.moe import MixtureOfExperts
from perfmodel.layers.operators import Attention, Collective, Experts, Gemm, Operator, Pass, Wait
from perfmodel.layers.precision import Precision
from perfmodel.models.block import Block, tensor_bytes

_TRANSFER_BYTES = 2.0


def expert_slots(
    experts: Floats, ranks: Floats, engine: Engine, *, decode: bool, shared: bool = True
) -> tuple[Floats, Floats]:
    """Count the places for experts on all ranks, and how many of them a token visits beyond the model's own choice.

    Copies are used where they make the places divide among the ranks.

    Parameters
    ----------
    experts : float or array
        Routed experts of the model.
    ranks : float or array
        Expert-parallel ranks.
    engine : Engine
        Serving software.
    decode : bool
        Whether it is a decode step.
    shared : bool
        Whether the model has a shared expert.

    Returns
    -------
    slots : float or array
        Routed experts with their copies, and copies of the shared expert where tokens are sent to it.
    extra : float or array
        1 where every token is sent to a copy of the shared expert, else 0.

    Examples
    --------
    >>> engine = Engine("cm", "", redundant_experts=32, shared_copies=32)
    >>> [tuple(float(x) for x in expert_slots(256, ep, engine, decode=True)) for ep in (32, 320, 128)]
    [(320.0, 1.0), (320.0, 1.0), (256.0, 0.0)]
    """
    n = as_floats(ranks)
    copied = as_floats(experts) + engine.redundant_experts
    together = copied + engine.shared_copies
    sent = (np.mod(together, n) == 0) & (engine.shared_copies > 0) & decode & shared & (n > 1)
    slots = np.where(np.mod(copied, n) == 0, copied, experts)
    return np.where(sent, together, slots)[()], np.where(sent, 1.0, 0.0)[()]


def block_bytes(block: Block, shard: Shard, precision: Precision, engine: Engine) -> Floats:
    """Weights of a block on one device, copies of experts included.

    Parameters
    ----------
    block : Block
        The block.
    shard : Shard
        The parallel sizes.
    precision : Precision
        Number formats of the deployment.
    engine : Engine
        Serving software.

    Returns
    -------
    float or array
        Bytes; where decode steps send tokens to copies of the shared expert, it is on its own devices only [B].
    """
    total = block.weight_bytes(shard, precision)
    if not (engine.redundant_experts or engine.shared_copies):
        return total
    for part in (each for each in block.parts if isinstance(each, MixtureOfExperts)):
        tensors = part.tensors()
        has_shared = bool(part.shared_intermediate)
        slots, sent = expert_slots(part.experts, shard.ep, engine, decode=True, shared=has_shared)
        routed = as_floats(tensor_bytes((t for t in tensors if t.split == "expert"), shard, precision))
        shared = as_floats(tensor_bytes((t for t in tensors if t.name.startswith("shared expert")), shard, precision))
        total = total + routed * (as_floats(slots) / part.experts - 1.0) - shared * sent
    return total


def arranged(
    layer: Layer, operators: tuple[Operator, ...], engine: Engine, step: Step, shard: Shard
) -> tuple[Operator, ...]:
    """Replace the operators of a layer that the engine runs in its own way.

    Parameters
    ----------
    layer : Layer
        The layer.
    operators : tuple of Operator
        What one device does in it.
    engine : Engine
        Serving software.
    step : Step
        Sequences and lengths.
    shard : Shard
        The parallel sizes.

    Returns
    -------
    tuple of Operator
        The same, or others in their place.
    """
    copies = engine.redundant_experts or engine.shared_copies
    own = copies or engine.ordered_prefill or engine.spread(decode=step.decode) > 0.0
    if isinstance(layer, MixtureOfExperts):
        own_way = _experts(operators, engine, step, shard) if own else operators
        return own_way if step.decode else _waiting(own_way, engine.prefill_waits, shard)
    if isinstance(layer, LatentAttention) and engine.regrouped_prefill and not step.decode:
        return _regrouped(operators, layer, step, shard)
    return operators


def _experts(operators: tuple[Operator, ...], engine: Engine, step: Step, shard: Shard) -> tuple[Operator, ...]:
    """Copies of experts, the shared one among the routed, and the busiest rank's share."""
    found = next((op for op in operators if isinstance(op, Experts)), None)
    if found is None:
        return operators
    has_shared = any(op.name.startswith("shared expert") for op in operators)
    slots, extra = expert_slots(found.experts, shard.ep, engine, decode=step.decode, shared=has_shared)
    topk = found.topk + extra
    busiest = busiest_rank(shard.ep, slots, slot_spread=engine.spread(decode=step.decode))
    out: list[Operator] = []
    for op in operators:
        if isinstance(op, Experts):
            busy = replace(op, tokens=op.tokens * busiest, experts=slots, topk=topk)
            out.append(busy)
            if engine.ordered_prefill and not step.decode:
                out.append(Pass("expert rows ordered and summed", _ordering(busy)))
        elif isinstance(op, Collective) and op.exchange is not None:
            moved = replace(op.exchange, experts=slots, topk=topk, imbalance=busiest)
            out.append(replace(op, payload=as_floats(op.payload) * topk / found.topk, exchange=moved))
        elif op.name.startswith("shared expert"):
            out.append(replace(op, count=op.count * (1.0 - extra)))
        elif op.name == "router":
            # Scores in 32 bits are read and the chosen experts written.
            scores = as_floats(step.rows(shard)) * (4.0 * found.experts + 8.0 * topk)
            out += [op, Pass("router top-k", scores)]
        else:
            out.append(op)
    return tuple(out)


def _waiting(operators: tuple[Operator, ...], waits: Waits, shard: Shard) -> tuple[Operator, ...]:
    """Waits for the other ranks before the exchanges of a layer."""
    before = {
        "dispatch": (("gate", "rows of the experts", waits.gate_s), ("dispatch", "ranks that send", waits.dispatch_s)),
        "combine": (("combine", "ranks that answer", waits.combine_s),),
    }
    out: list[Operator] = []
    for op in operators:
        out += [
            Wait(name, rank_wait(shard.ep, wait_s=wait_s, measured_ranks=waits.ranks), during)
            for during, name, wait_s in before.get(op.name, ())
            if wait_s
        ]
        out.append(op)
    return tuple(out)


def _ordering(op: Experts) -> Floats:
    """Bytes of copying the rows that have come to the places of their experts, and of adding the results up."""
    rows = as_floats(op.tokens) * op.topk / op.ep
    moved = rows * op.hidden * (2.0 * get_format(op.format).activation_bytes + _TRANSFER_BYTES)
    return np.where(as_floats(op.ep) > 1, moved, 0.0)


def _regrouped(
    operators: tuple[Operator, ...], latent: LatentAttention, step: Step, shard: Shard
) -> tuple[Operator, ...]:
    """Latent attention by heads between projections by tokens, over the attention-data-parallel ranks."""
    ranks = as_floats(shard.dp)
    rows = as_floats(step.rows(shard))
    up = next(op for op in operators if isinstance(op, Gemm) and op.name == "query up projection")
    core = next(op for op in operators if isinstance(op, Attention))
    # Vectors travel as the products take them. The latents that were found in a cache come to every rank as well.
    narrow = get_format(up.format).activation_bytes
    kept = float(latent.kv_rank + latent.qk_rope_dim)
    found = as_floats(step.batch) / shard.cp * np.maximum(as_floats(step.context) - step.tokens, 0.0)
    compressed = rows * ((latent.query_rank + kept) * narrow)
    cached = found * (kept * get_format(core.kv_format).activation_bytes)
    every = np.where(ranks > 1, ranks * (compressed + cached), 0.0)
    outputs = np.where(ranks > 1, rows * (latent.heads * latent.v_head_dim * narrow), 0.0)
    out: list[Operator] = []
    for op in operators:
        if isinstance(op, Gemm) and op.name in ("query up projection", "latent expansion"):
            if not any(isinstance(each, Collective) and each.kind == "all_gather" for each in out):
                out.append(Collective("compressed vectors to every rank", "all_gather", every, "dp"))
            # Every rank has all tokens now, for its own heads alone.
            out.append(replace(op, tokens=op.tokens * ranks, out_features=share(op.out_features, ranks)))
        elif isinstance(op, Attention):
            heads, kv_heads = share(op.heads, ranks), share(op.kv_heads, ranks)
            out.append(replace(op, batch=op.batch * ranks, heads=heads, kv_heads=kv_heads))
            out.append(Collective("heads back to their tokens", "all_to_all", outputs, "dp"))
        else:
            out.append(op)
    return tuple(out)
