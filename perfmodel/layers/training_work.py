"""What training does in one microbatch on one device: products, passes, exchanges and kept activations, as sizes."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.layers.base import Layer, Shard, Step
from perfmodel.layers.operators import Attention, Gemm, Pass
from perfmodel.layers.operators import Exchange as TokenExchange
from perfmodel.layers.training_recipe import TrainingRecipe

Network: TypeAlias = Literal["tp", "cp", "ep"]


@dataclass(frozen=True, slots=True)
class Product:
    """Linear layer: a product forward, and two backward (input gradient, weight gradient).

    Parameters
    ----------
    name : str
        What it is in the model.
    tokens : float or array
        Rows on one device, of one group.
    out_features, in_features : float or array
        Columns and depth on one device.
    format : str
        Operand format.
    groups : float or array
        Products of that size side by side (local experts).
    experts : bool
        Whether they are routed experts.
    frozen : bool
        Whether its weights are not learned: no weight gradient.
    adapter : bool
        Whether it is a low-rank adapter beside a frozen product.
    lifts : bool
        Whether it widens latent vectors to queries, keys or values, which latent recomputation repeats.
    """

    name: str
    tokens: Floats
    out_features: Floats
    in_features: Floats
    format: str
    groups: Floats = 1.0
    experts: bool = False
    frozen: bool = False
    adapter: bool = False
    lifts: bool = False

    def flops(self) -> Floats:
        """Operations of the forward product [FLOP]."""
        return 2.0 * as_floats(self.tokens) * self.out_features * self.in_features * self.groups


@dataclass(frozen=True, slots=True)
class TrainingPass:
    """Pointwise passes forward and backward.

    Parameters
    ----------
    name : str
        What they are in the model.
    forward_bytes, backward_bytes : float or array
        Bytes read and written [B].
    forward_kernels, backward_kernels : float
        Kernels they are made of.
    core : bool
        Whether they belong to the attention core, which selective recomputation repeats.
    light : bool
        Whether they make what pointwise recomputation makes again.
    lifted : bool
        Whether they go over what was widened from latent vectors.
    """

    name: str
    forward_bytes: Floats
    backward_bytes: Floats
    forward_kernels: float = 1.0
    backward_kernels: float = 1.0
    core: bool = False
    light: bool = False
    lifted: bool = False


@dataclass(frozen=True, slots=True)
class Exchange:
    """Communication of a layer: with its payload, how often it happens forward and backward.

    Parameters
    ----------
    name : str
        What it carries.
    kind : str
        all_reduce, all_gather, reduce_scatter, all_to_all, dispatch or combine.
    payload : float or array
        Total buffer; for all-to-all, what one rank holds [B].
    network : str
        Group that takes part: tp, cp or ep.
    forward, backward : float
        Times per microbatch.
    tokens : perfmodel.layers.operators.Exchange, optional
        Of a dispatch or combine, what it moves: fused kernels do not send the payload as it is.
    """

    name: str
    kind: str
    payload: Floats
    network: Network
    forward: float = 1.0
    backward: float = 1.0
    tokens: TokenExchange | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """Activation that the backward pass needs.

    Parameters
    ----------
    name : str
        What it is in the model.
    nbytes : float or array
        Bytes per microbatch on one device [B].
    core : bool
        Whether it belongs to the attention core.
    light : bool
        Whether a pointwise pass over other kept activations makes it again.
    lifted : bool
        Whether widening kept latent vectors makes it again.
    """

    name: str
    nbytes: Floats
    core: bool = False
    light: bool = False
    lifted: bool = False


@dataclass(frozen=True, slots=True)
class LayerWork:
    """Everything one layer does in one microbatch.

    Parameters
    ----------
    products : tuple of Product
        Linear layers.
    attentions : tuple of Attention
        Attention cores.
    passes : tuple of TrainingPass
        Pointwise passes.
    exchanges : tuple of Exchange
        Communication.
    kept : tuple of Kept
        Activations kept for the backward pass.
    """

    products: tuple[Product, ...] = ()
    attentions: tuple[Attention, ...] = ()
    passes: tuple[TrainingPass, ...] = ()
    exchanges: tuple[Exchange, ...] = ()
    kept: tuple[Kept, ...] = ()

    def __add__(self, other: "LayerWork") -> "LayerWork":
        return LayerWork(
            self.products + other.products,
            self.attentions + other.attentions,
            self.passes + other.passes,
            self.exchanges + other.exchanges,
            self.kept + other.kept,
        )


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One microbatch as one device sees it, and how layers are executed.

    Parameters
    ----------
    batch : float or array
        Sequences.
    seq : float or array
        Tokens of a sequence.
    tp, cp, ep : float or array
        Tensor-, context- and expert-parallel ranks.
    sequence_parallel : float or array
        1 where activations outside the matrices are divided over tensor-parallel ranks.
    recipe : TrainingRecipe
        Number formats.
    dropout : bool
        Whether dropout is applied.
    unfused : bool
        Whether attention scores are written to memory.
    fused_loss : bool
        Whether the cross entropy runs in a fused kernel.
    """

    batch: Floats
    seq: Floats
    tp: Floats
    cp: Floats
    ep: Floats
    sequence_parallel: Floats
    recipe: TrainingRecipe
    dropout: bool
    unfused: bool
    fused_loss: bool

    @property
    def rows(self) -> Floats:
        """Tokens that one device multiplies."""
        return as_floats(self.batch) * self.seq / self.cp

    @property
    def outer_rows(self) -> Floats:
        """Tokens that one device holds outside the matrices."""
        return self.rows / np.where(as_floats(self.sequence_parallel) > 0, self.tp, 1.0)

    def operators(self, part: Layer) -> tuple[list[Gemm], list[Attention], list[Pass]]:
        """Matrix products, attention cores and passes of a layer's forward step.

        Parameters
        ----------
        part : Layer
            Layer.

        Returns
        -------
        tuple of list
            Operators of each kind, in order.
        """
        step = Step(self.batch, self.seq, self.seq, decode=False)
        shard = Shard(self.tp, 1.0, self.cp, 1.0, self.tp)
        ops = part.operators(step, shard, self.recipe.precision())
        return (
            [op for op in ops if isinstance(op, Gemm)],
            [op for op in ops if isinstance(op, Attention)],
            [op for op in ops if isinstance(op, Pass)],
        )
