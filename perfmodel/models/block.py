"""One decoder block: its weights [B], cache [B] and work, summed over its layers."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.layers.base import Layer, Shard, Step, Tensor
from perfmodel.layers.operators import Operator
from perfmodel.layers.precision import Precision


@dataclass(frozen=True, slots=True)
class Block:
    """One decoder block: layers that run one after the other.

    Parameters
    ----------
    name : str
        What distinguishes it in its model, for instance "dense" or "moe, sliding".
    parts : tuple of Layer
        Norms, attention and feed-forward layers in order.
    """

    name: str
    parts: tuple[Layer, ...]

    def tensors(self) -> tuple[Tensor, ...]:
        """List the weight tensors of every part.

        Returns
        -------
        tuple of Tensor
            In the order of the parts.
        """
        return tuple(tensor for part in self.parts for tensor in part.tensors())

    def operators(self, step: Step, shard: Shard, precision: Precision) -> tuple[Operator, ...]:
        """List what one device does in this block.

        Parameters
        ----------
        step : Step
            Sequences and lengths.
        shard : Shard
            The parallel sizes.
        precision : Precision
            Number formats of the deployment.

        Returns
        -------
        tuple of Operator
            In the order of execution.
        """
        return tuple(op for part in self.parts for op in part.operators(step, shard, precision))

    def weight_bytes(self, shard: Shard, precision: Precision) -> Floats:
        """Weights of the block on one device.

        Parameters
        ----------
        shard : Shard
            The parallel sizes.
        precision : Precision
            Number formats of the deployment.

        Returns
        -------
        float or array
            Bytes, block scales included [B].
        """
        return tensor_bytes(self.tensors(), shard, precision)

    def cache_bytes(self, context: Floats, shard: Shard, precision: Precision) -> Floats:
        """Bytes that one sequence keeps in this block on one device.

        Parameters
        ----------
        context : float or array
            Tokens of the sequence so far.
        shard : Shard
            The parallel sizes.
        precision : Precision
            Number formats of the deployment.

        Returns
        -------
        float or array
            Key-value cache and recurrent state [B].
        """
        total: Floats = 0.0
        for part in self.parts:
            total = total + part.cache_bytes(context, shard, precision)
        return total

    def parameters(self) -> float:
        """Count the weights of the block.

        Returns
        -------
        float
            Elements of all tensors.
        """
        return sum(tensor.elements for tensor in self.tensors())

    def active_parameters(self) -> float:
        """Count the weights that one token is multiplied with.

        Returns
        -------
        float
            Elements.
        """
        return sum(tensor.active for tensor in self.tensors())


def tensor_bytes(tensors: Iterable[Tensor], shard: Shard, precision: Precision) -> Floats:
    """Bytes of some tensors on one device.

    Parameters
    ----------
    tensors : iterable of Tensor
        Weight tensors.
    shard : Shard
        The parallel sizes.
    precision : Precision
        Number formats of the deployment.

    Returns
    -------
    float or array
        Bytes, block scales included [B].
    """
    total: Floats = np.float64(0.0)
    for tensor in tensors:
        if tensor.elements:
            total = total + as_floats(tensor.per_device(shard)) * tensor.element_bytes(precision)
    return total


def assemble(layers: Iterable[Block]) -> tuple[tuple[tuple[Block, int], ...], tuple[int, ...]]:
    """Group equal blocks of a layer-by-layer list.

    Parameters
    ----------
    layers : iterable of Block
        One block per layer, from first to last.

    Returns
    -------
    tuple
        `blocks` and `layout` of a `ModelSpec`.
    """
    order: dict[Block, int] = {}
    layout = tuple(order.setdefault(block, len(order)) for block in layers)
    return tuple((block, layout.count(index)) for block, index in order.items()), layout
