"""Work and weights of dense feed-forward layers (elements, FLOP, bytes)."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from perfmodel.arrays import as_floats
from perfmodel.layers.base import Layer, Shard, Step, Tensor, activation_bytes, share
from perfmodel.layers.operators import Collective, Gemm, Operator, Pass
from perfmodel.layers.precision import Precision


@dataclass(frozen=True, slots=True)
class Mlp(Layer):
    """Two or three matrices around an activation, the inner width divided over tensor-parallel ranks.

    Parameters
    ----------
    hidden : int
        Width of the model.
    intermediate : int
        Inner width.
    gated : bool
        Whether a gate stands beside the up projection (SwiGLU and its kin); both run as one product.
    bias : bool
        Whether the projections have biases.
    reduce : bool
        Whether an all-reduce follows; a shared expert leaves it to its MoE layer.
    name : str
        Prefix of the operators' names.
    """

    hidden: int
    intermediate: int
    gated: bool = True
    bias: bool = False
    reduce: bool = True
    name: str = "mlp"

    def tensors(self) -> tuple[Tensor, ...]:
        """List the projections, biases included.

        Returns
        -------
        tuple of Tensor
            Up (with its gate) and down projection.
        """
        up = (1.0 + self.gated) * self.intermediate * (self.hidden + self.bias)
        down = float(self.hidden) * self.intermediate
        out: tuple[Tensor, ...] = (
            Tensor(f"{self.name} up projection", up, "linear", "tp", up),
            Tensor(f"{self.name} down projection", down, "linear", "tp", down),
        )
        if self.bias:
            out += (Tensor(f"{self.name} down bias", float(self.hidden), "norm", "none", float(self.hidden)),)
        return out

    def _operators(self, step: Step, shard: Shard, precision: Precision) -> tuple[Operator, ...]:
        rows, a = step.rows(shard), activation_bytes(precision)
        inner, matrices = share(self.intermediate, shard.tp), 1.0 + self.gated
        out: tuple[Operator, ...] = (
            Gemm(f"{self.name} up projection", rows, matrices * inner, float(self.hidden), precision.linear),
            Pass(f"{self.name} activation", rows * inner * ((matrices + 1.0) * a), rows * inner * 4.0),
            Gemm(f"{self.name} down projection", rows, float(self.hidden), inner, precision.linear),
        )
        if self.reduce:
            payload = np.where(as_floats(shard.tp) > 1, rows * self.hidden * a, 0.0)
            out += (Collective(f"{self.name} all-reduce", "all_reduce", payload, "tp"),)
        return out

    def divisors(self) -> Mapping[str, int]:
        """Sizes that a parallel plan has to divide.

        Returns
        -------
        mapping
            The inner width.
        """
        return {"intermediate": self.intermediate}
