"""Work and weights of normalisation layers (elements, bytes)."""

from dataclasses import dataclass

from perfmodel.layers.base import Layer, Shard, Step, Tensor, activation_bytes
from perfmodel.layers.operators import Operator, Pass
from perfmodel.layers.precision import Precision


@dataclass(frozen=True, slots=True)
class Norm(Layer):
    """RMS or layer normalisation with the residual addition fused in, as every serving engine does.

    Parameters
    ----------
    name : str
        Which norm of the block it is.
    hidden : int
        Width of the model.
    vectors : int
        Weight vectors: 1 for RMS norm, 2 for layer norm with bias.
    residual : bool
        Whether the residual addition is fused in: two inputs and two outputs instead of one each.
    """

    name: str
    hidden: int
    vectors: int = 1
    residual: bool = True

    def tensors(self) -> tuple[Tensor, ...]:
        """List the weight vectors.

        Returns
        -------
        tuple of Tensor
            One tensor, copied to every rank.
        """
        size = float(self.hidden * self.vectors)
        return (Tensor(self.name, size, "norm", "none", size),)

    def _operators(self, step: Step, shard: Shard, precision: Precision) -> tuple[Operator, ...]:
        streams = 4.0 if self.residual else 2.0
        elements = step.rows(shard) * self.hidden
        return (Pass(self.name, elements * (streams * activation_bytes(precision)), elements * 4.0),)


@dataclass(frozen=True, slots=True)
class HyperConnections(Layer):
    """Several residual streams that are mixed into a layer's input and that its output is mixed back into.

    Parameters
    ----------
    name : str
        Which of the block's layers it surrounds.
    hidden : int
        Width of one stream.
    streams : int
        Residual streams.
    """

    name: str
    hidden: int
    streams: int

    def tensors(self) -> tuple[Tensor, ...]:
        """List the projection that makes the mixing weights, their scales and offsets, and the norm.

        Returns
        -------
        tuple of Tensor
            One tensor, copied to every rank.
        """
        mixes = (2.0 + self.streams) * self.streams
        size = mixes * (self.streams * self.hidden + 1.0) + 3.0 + self.hidden
        return (Tensor(self.name, size, "norm", "none", size),)

    def _operators(self, step: Step, shard: Shard, precision: Precision) -> tuple[Operator, ...]:
        elements = step.rows(shard) * self.hidden
        # Every stream is read and written once before the layer and once after it, the layer's own stream with them.
        moved = elements * ((4.0 * self.streams + 2.0) * activation_bytes(precision))
        mixes = (2.0 + self.streams) * self.streams
        return (Pass(self.name, moved, elements * (2.0 * self.streams * (mixes + 4.0))),)
