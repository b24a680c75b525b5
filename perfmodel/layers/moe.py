"""Work, weights and traffic of mixture-of-experts layers (elements, FLOP, bytes)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.expert_traffic import message_bytes
from perfmodel.costs.formats import get_format
from perfmodel.layers.base import Layer, Shard, Step, Tensor, activation_bytes
from perfmodel.layers.mlp import Mlp
from perfmodel.layers.operators import Collective, Exchange, Experts, Gemm, Operator, Pass
from perfmodel.layers.precision import Precision

SCALE_BLOCK = 128.0
"""Elements of a token that share a scale on the way to 8-bit experts (DeepEP)."""


SHARED = "shared expert "
"""How the names of operators begin that belong to shared experts, which run beside the routed ones."""


@dataclass(frozen=True, slots=True)
class MixtureOfExperts(Layer):
    """Router, routed experts and shared experts.

    The `ep` x `moe_tp` devices of the layer hold the tokens of (ep x moe_tp) / tp groups of tensor-parallel ranks.
    One group: its tokens are on every device already, each computes its experts' share and one all-reduce over all
    of them ends the layer, shared experts included. Several groups (attention data parallelism): each rank sends
    its part of the group's tokens to the ranks of the chosen experts and gets the results back (dispatch, combine),
    or, without expert parallelism, gathers all tokens and scatters the sums; an all-gather over tp then rebuilds
    the group's tokens.

    Parameters
    ----------
    hidden : int
        Width of the model.
    experts, topk : int
        Routed experts, and experts per token.
    intermediate : int
        Inner width of one expert.
    gated : bool
        Whether experts have a gate beside the up projection.
    bias : bool
        Whether experts have biases.
    router_bias : bool
        Whether the router has a bias or score correction per expert.
    router : bool
        Whether there is a learned router; False where a table routes by token.
    shared_intermediate : int
        Inner width of all shared experts together; 0 for none.
    shared_gate : bool
        Whether a learned scalar gate scales the shared experts.
    latent : int
        Width that tokens are projected to before they are dispatched, and back after; 0 for none.
    groups, group_limit : int
        Groups of experts, and how many of them the router may pick for a token; 0 where it may pick all.
    """

    hidden: int
    experts: int
    topk: int
    intermediate: int
    gated: bool = True
    bias: bool = False
    router_bias: bool = False
    router: bool = True
    shared_intermediate: int = 0
    shared_gate: bool = False
    latent: int = 0
    groups: int = 0
    group_limit: int = 0

    @property
    def width(self) -> int:
        """Width of the tokens that experts see."""
        return self.latent or self.hidden

    def _shared(self) -> Mlp:
        return Mlp(self.hidden, self.shared_intermediate, self.gated, reduce=False, name=SHARED.strip())

    def tensors(self) -> tuple[Tensor, ...]:
        """List the weights of all experts, shared ones, the router and the latent projections.

        Returns
        -------
        tuple of Tensor
            Routed experts are active by topk / experts, everything else wholly.
        """
        one = self.width * self.intermediate * (2.0 + self.gated)
        if self.bias:
            one += self.intermediate * (1.0 + self.gated) + self.width
        out: list[Tensor] = [Tensor("experts", self.experts * one, "expert", "expert", self.topk * one)]
        router = float(self.experts * (self.hidden * self.router + self.router_bias))
        if router:
            out.append(Tensor("router", router, "router", "none", router))
        if self.latent:
            size = 2.0 * self.hidden * self.latent
            out.append(Tensor("expert latent projections", size, "linear", "none", size))
        if self.shared_intermediate:
            out += self._shared().tensors()
            if self.shared_gate:
                out.append(Tensor("shared expert gate", float(self.hidden), "router", "none", float(self.hidden)))
        return tuple(out)

    def _operators(self, step: Step, shard: Shard, precision: Precision) -> tuple[Operator, ...]:
        rows, a = step.rows(shard), activation_bytes(precision)
        ep, tp = as_floats(shard.ep), as_floats(shard.tp)
        ranks = as_floats(shard.moe_ranks())
        groups = ranks / tp
        spread = groups > 1
        out: list[Operator] = []
        if self.router:
            out.append(Gemm("router", rows, float(self.experts), float(self.hidden), "bf16"))
        if self.shared_intermediate:
            out += self._shared().operators(step, shard, precision)
            if self.shared_gate:
                out.append(Pass("shared expert gate", rows * (3.0 * self.hidden * a), rows * (3.0 * self.hidden)))
        if self.latent:
            out.append(Gemm("latent down", rows, float(self.latent), float(self.hidden), precision.linear))
        sent = get_format(precision.experts).activation_bytes
        copies = np.minimum(self.topk, ep) * shard.moe_tp
        exchange = np.where(spread & (ep > 1), rows / tp * copies * self.width, 0.0)
        gathered = np.where(spread & (ep <= 1), rows * groups * self.width, 0.0)
        moved = Exchange(
            rows / tp,
            float(self.width),
            float(self.experts),
            float(self.topk),
            step.decode,
            self.groups,
            self.group_limit,
            a,
        )
        # Tokens travel as the experts take them: in 16 bits, or in 8 with a scale per block.
        narrow = float(message_bytes(self.width, 1.0, SCALE_BLOCK)) / self.width
        tokens = replace(moved, element_bytes=narrow if sent < a else a)
        out += [
            Collective("dispatch", "dispatch", exchange * sent, "moe", exchange=tokens),
            Collective("expert all-gather", "all_gather", gathered * sent, "moe"),
            Experts(
                "experts",
                rows * groups,
                float(self.width),
                float(self.intermediate),
                float(self.experts),
                float(self.topk),
                ep,
                shard.moe_tp,
                precision.experts,
                self.gated,
            ),
            Collective("combine", "combine", exchange * a, "moe", exchange=moved),
            Collective("expert reduce-scatter", "reduce_scatter", gathered * a, "moe"),
        ]
        if self.latent:
            out.append(Gemm("latent up", rows, float(self.hidden), float(self.latent), precision.linear))
        return (*out, *self._closing(rows * self.hidden * a, tp, ranks, spread))

    def _closing(self, payload: Floats, tp: Floats, ranks: Floats, spread: np.ndarray) -> tuple[Operator, ...]:
        alone = ~spread & (as_floats(ranks) > 1)
        rebuild = spread & (as_floats(tp) > 1)
        out: list[Operator] = [Collective("expert all-reduce", "all_reduce", np.where(alone, payload, 0.0), "moe")]
        if self.shared_intermediate:
            scattered = np.where(rebuild, payload, 0.0)
            out.append(Collective("shared expert reduce-scatter", "reduce_scatter", scattered, "tp"))
        out.append(Collective("token all-gather", "all_gather", np.where(rebuild, payload, 0.0), "tp"))
        return tuple(out)

    def divisors(self) -> Mapping[str, int]:
        """Sizes that a parallel plan has to divide.

        Returns
        -------
        mapping
            Routed experts, their inner width and that of the shared experts.
        """
        out = {"experts": self.experts, "expert_intermediate": self.intermediate}
        return out | ({"intermediate": self.shared_intermediate} if self.shared_intermediate else {})
