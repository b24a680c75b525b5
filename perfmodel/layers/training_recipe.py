"""Recipes of training: formats of products, what is learned, bytes of weights, states and activations [B]."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from perfmodel.costs.formats import get_format
from perfmodel.errors import PlanError, UnknownNameError
from perfmodel.layers.precision import Precision

METHODS = ("full", "lora", "forward")
"""What is learned: all weights; low-rank adapters beside frozen weights; all weights from two forward passes
(zeroth order: no backward pass, no gradients, no states)."""


@dataclass(frozen=True, slots=True)
class TrainingRecipe:
    """Number formats of mixed-precision training.

    Parameters
    ----------
    name : str
        Name in case files and on the command line.
    linear : str
        Operand format of the matrix products of layers, experts included.
    head : str
        Operand format of the output projection.
    weight_bytes : float
        Bytes per weight of the working copy [B].
    master_bytes : float
        Bytes per weight of the optimizer's own copy [B].
    moment_bytes : float
        Bytes per weight of the optimizer's moments [B].
    activation_bytes : float
        Bytes per element of the residual stream and of what the backward pass keeps [B].
    cast_bytes : float
        Bytes per element that a product's operand costs to be quantised: read, written, written transposed [B].
    method : str
        One of `METHODS`.
    adapter_rank : float
        Rank of the adapters beside every linear layer of attention and dense MLP.
    adapters : float
        Adapters that are trained in one batch, each on its own equal part of the tokens.
    """

    name: str
    linear: str
    head: str = "bf16"
    weight_bytes: float = 2.0
    master_bytes: float = 4.0
    moment_bytes: float = 8.0
    activation_bytes: float = 2.0
    cast_bytes: float = 0.0
    method: str = "full"
    adapter_rank: float = 0.0
    adapters: float = 1.0

    @property
    def operand_bytes(self) -> float:
        """Bytes per element of a product's input that is kept for its weight gradient [B]."""
        return get_format(self.linear).activation_bytes

    @property
    def optimizer_bytes(self) -> float:
        """Bytes per weight of master copy and moments [B]."""
        return self.master_bytes + self.moment_bytes

    def precision(self) -> Precision:
        """Formats by the names that layers use."""
        return Precision(
            linear=self.linear,
            experts=self.linear,
            attention_linear=self.linear,
            head=self.head,
            attention=self.head,
            kv=self.head,
            activations=self.head,
        )


_ROWS = (
    TrainingRecipe("fp32", "fp32", "fp32", 4.0, 0.0, 8.0, 4.0),
    TrainingRecipe("tf32", "tf32", "tf32", 4.0, 0.0, 8.0, 4.0),
    TrainingRecipe("bf16", "bf16"),
    TrainingRecipe("fp16", "fp16", "fp16"),
    TrainingRecipe("fp8", "fp8", cast_bytes=4.0),
    TrainingRecipe("fp8_block", "fp8_block", cast_bytes=4.0),
    TrainingRecipe("mxfp8", "mxfp8", cast_bytes=4.0 + 2.0 / 32.0),
    TrainingRecipe("nvfp4", "nvfp4", cast_bytes=3.0 + 2.0 / 16.0),
)

RECIPES: Mapping[str, TrainingRecipe] = {row.name: row for row in _ROWS}
"""Every recipe by name."""

_ALIASES = {"fp8-cs": "fp8", "fp8-ds": "fp8", "fp8-mx": "mxfp8", "fp8-sc": "fp8_block", "fp4": "nvfp4"}


def get_recipe(name: str, method: str = "full", adapter_rank: float = 16.0, adapters: float = 1.0) -> TrainingRecipe:
    """Look a recipe up by its name or by what frameworks call it.

    Parameters
    ----------
    name : str
        For instance "bf16", "fp8", "fp8-mx" or "nvfp4".
    method : str
        One of `METHODS`.
    adapter_rank : float
        Rank of the adapters of "lora".
    adapters : float
        Adapters of "lora" that are trained in one batch.

    Returns
    -------
    TrainingRecipe
        The recipe.

    Raises
    ------
    UnknownNameError
        If there is none of that name, or the method is unknown.
    PlanError
        If the rank is no whole number above zero.

    Examples
    --------
    >>> get_recipe("fp8-mx").linear, get_recipe("bf16").optimizer_bytes
    ('mxfp8', 12.0)
    """
    key = str(name).lower()
    key = _ALIASES.get(key, key)
    if key not in RECIPES:
        raise UnknownNameError("training precision", str(name), (*RECIPES, *_ALIASES))
    if method not in METHODS:
        raise UnknownNameError("training method", str(method), METHODS)
    for what, value in (("the rank of adapters", adapter_rank), ("adapters", adapters)):
        if not 1 <= value < np.inf or value != int(value):
            raise PlanError(f"{what} must be a whole number of at least 1, not {value:g}")
    if method != "lora":
        if adapters > 1:
            raise PlanError(f"{adapters:g} adapters need the method lora, not {method}")
        return replace(RECIPES[key], method=method)
    return replace(RECIPES[key], method=method, adapter_rank=float(adapter_rank), adapters=float(adapters))
