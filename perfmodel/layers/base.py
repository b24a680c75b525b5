"""What every layer can say: its weights (elements), its work per device (operators) and its cache (bytes)."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.formats import get_format
from perfmodel.layers.operators import Operator
from perfmodel.layers.precision import Precision

Role: TypeAlias = Literal["linear", "attention_linear", "expert", "router", "embedding", "head", "norm"]
"""What a weight tensor is for; decides its number format."""

Split: TypeAlias = Literal["none", "tp", "kv", "expert", "vocab"]
"""How a weight tensor is divided among devices."""


@dataclass(frozen=True, slots=True)
class Step:
    """One forward step, as one attention-data-parallel rank sees it.

    Parameters
    ----------
    batch : float or array
        Sequences on the rank.
    tokens : float or array
        New tokens of each sequence (1 in plain decode).
    context : float or array
        Keys of each sequence once the new tokens are appended.
    decode : bool
        Whether it is a decode step (other kernels, logits for every token).
    """

    batch: Floats
    tokens: Floats
    context: Floats
    decode: bool

    def rows(self, shard: "Shard") -> Floats:
        """Tokens whose activations one device holds.

        Context parallelism divides the new tokens of a prefill; in decode it divides the cache, and every rank
        of the group holds all new tokens.

        Parameters
        ----------
        shard : Shard
            The parallel sizes.

        Returns
        -------
        float or array
            Rows of the dense products on one device.
        """
        rows = as_floats(self.batch) * self.tokens
        return rows if self.decode else rows / shard.cp


@dataclass(frozen=True, slots=True)
class Shard:
    """Over how many devices each dimension of a layer is divided; every size is a number or an array.

    Parameters
    ----------
    tp : float or array
        Tensor-parallel ranks of attention and dense layers.
    dp : float or array
        Attention data-parallel ranks: they hold different tokens and the same attention weights.
    cp : float or array
        Context-parallel ranks.
    ep : float or array
        Groups that the routed experts are divided among.
    moe_tp : float or array
        Devices that share one expert.
    """

    tp: Floats = 1.0
    dp: Floats = 1.0
    cp: Floats = 1.0
    ep: Floats = 1.0
    moe_tp: Floats = 1.0

    def moe_ranks(self) -> Floats:
        """Devices of one MoE layer: `ep` x `moe_tp`.

        Returns
        -------
        float or array
            Devices that together hold every expert once.
        """
        return as_floats(self.ep) * self.moe_tp


@dataclass(frozen=True, slots=True)
class Tensor:
    """One weight tensor of a layer.

    Parameters
    ----------
    name : str
        What it is in the model.
    elements : float
        Parameters of the whole tensor.
    role : str
        What it is for; decides its number format.
    split : str
        How it is divided: none (a copy on every rank), tp, kv (over at most `limit` ranks, copies beyond), expert
        (over ep x moe_tp), vocab (over tp).
    active : float
        Parameters that one token is multiplied with: all of a linear layer, topk / experts of the routed experts,
        none of an embedding table (a look-up multiplies nothing).
    limit : float
        Most parts that a tensor of split "kv" can be divided into (its key-value heads).
    """

    name: str
    elements: float
    role: Role
    split: Split
    active: float
    limit: float = np.inf

    def per_device(self, shard: Shard) -> Floats:
        """Elements that one device stores (the mean where a division is uneven).

        Parameters
        ----------
        shard : Shard
            The parallel sizes.

        Returns
        -------
        float or array
            Elements on one device.

        Examples
        --------
        >>> float(Tensor("k", 1024.0, "attention_linear", "kv", 1024.0, limit=2).per_device(Shard(tp=8.0)))
        512.0
        """
        size = as_floats(self.elements)
        match self.split:
            case "none":
                return size
            case "kv":
                return size / np.minimum(shard.tp, self.limit)
            case "expert":
                return size / shard.moe_ranks()
            case _:
                return size / shard.tp

    def element_bytes(self, precision: Precision) -> float:
        """Bytes of one element; routers and norms stay in 16 bits in every checkpoint format.

        Parameters
        ----------
        precision : Precision
            Number formats of the deployment.

        Returns
        -------
        float
            Bytes per element, scales included [B].
        """
        formats: dict[str, str] = {
            "linear": precision.linear,
            "attention_linear": precision.attention_linear,
            "expert": precision.experts,
            "embedding": precision.head,
            "head": precision.head,
        }
        return get_format(formats.get(self.role, "bf16")).weight_bytes


class Layer(ABC):
    """A part of a block: attention, MLP, mixture of experts, norm, embedding or head."""

    __slots__ = ()

    @abstractmethod
    def tensors(self) -> tuple[Tensor, ...]:
        """List the weight tensors of the layer.

        Returns
        -------
        tuple of Tensor
            Name, size, role and division of each.
        """

    def operators(self, step: Step, shard: Shard, precision: Precision) -> tuple[Operator, ...]:
        """List what one device does in this layer, in the order in which it does it.

        Parameters
        ----------
        step : Step
            Sequences and lengths.
        shard : Shard
            The parallel sizes; an operator that a plan does not need has zero payload there.
        precision : Precision
            Number formats of the deployment.

        Returns
        -------
        tuple of Operator
            Sizes on the busiest device, each an array over plans.
        """
        return self._operators(step, shard, precision)

    @abstractmethod
    def _operators(self, step: Step, shard: Shard, precision: Precision) -> tuple[Operator, ...]: ...

    def cache_bytes(self, context: Floats, shard: Shard, precision: Precision) -> Floats:
        """Bytes that one sequence keeps in this layer on one device between steps.

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
        return self._cache_bytes(context, shard, precision)

    def _cache_bytes(self, context: Floats, shard: Shard, precision: Precision) -> Floats:  # noqa: ARG002
        return 0.0 * as_floats(context)

    def divisors(self) -> Mapping[str, int]:
        """Sizes that a parallel plan has to divide.

        Returns
        -------
        mapping
            Any of heads, kv_heads, intermediate, experts, expert_intermediate, vocab -> size.
        """
        return {}


def share(size: Floats, parts: Floats) -> Floats:
    """Part of a dimension that the busiest of `parts` devices holds.

    Parameters
    ----------
    size : float or array
        Whole dimension.
    parts : float or array
        Devices it is divided among.

    Returns
    -------
    float or array
        The quotient, rounded up where the division is uneven.

    Examples
    --------
    >>> float(share(10, 4))
    3.0
    """
    return np.ceil(as_floats(size) / parts)


def activation_bytes(precision: Precision) -> float:
    """Bytes per element of the residual stream and of what collectives carry.

    Parameters
    ----------
    precision : Precision
        Number formats of the deployment.

    Returns
    -------
    float
        Bytes per element [B].
    """
    return get_format(precision.activations).activation_bytes
