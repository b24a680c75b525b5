"""Precision: which number format each part of a model is stored and computed in."""

from dataclasses import dataclass, replace

from perfmodel.costs.formats import get_format


@dataclass(frozen=True, slots=True)
class Precision:
    """Number formats of one deployment.

    Parameters
    ----------
    linear : str
        Operands of dense linear layers.
    experts : str
        Operands of routed experts.
    attention : str
        Queries and the attention products of the prefill.
    kv : str
        Key-value cache.
    head : str
        Output projection and embedding table.
    activations : str
        Residual stream, and what collectives carry.
    attention_linear : str
        Operands of the projections inside attention (some checkpoints leave them in 16 bits).
    """

    linear: str = "bf16"
    experts: str = "bf16"
    attention: str = "bf16"
    kv: str = "bf16"
    head: str = "bf16"
    activations: str = "bf16"
    attention_linear: str = "bf16"

    def __post_init__(self) -> None:
        for name in ("linear", "experts", "attention", "kv", "head", "activations", "attention_linear"):
            get_format(getattr(self, name))

    def with_kv(self, kv: str) -> "Precision":
        """Return the same precision with another format of the key-value cache.

        Parameters
        ----------
        kv : str
            Number format.

        Returns
        -------
        Precision
            A copy.

        Examples
        --------
        >>> Precision().with_kv("fp8").kv
        'fp8'
        """
        return replace(self, kv=kv)

    @staticmethod
    def uniform(weights: str, kv: str = "bf16") -> "Precision":
        """Weights of all linear layers and experts in one format, everything else in 16 bits.

        Parameters
        ----------
        weights : str
            Format of linear layers and experts.
        kv : str
            Format of the key-value cache.

        Returns
        -------
        Precision
            The formats.

        Examples
        --------
        >>> Precision.uniform("fp8").experts
        'fp8'
        """
        return Precision(linear=weights, experts=weights, attention_linear=weights, kv=kv)
