"""Work of a matrix product: floating-point operations and compulsory bytes."""

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.registry import formula


@formula(
    name="gemm_flops",
    quantity="work",
    equation=r"F = 2\,m\,n\,k",
    source="Definition: one multiplication and one addition per element of the product's inner dimension",
)
def gemm_flops(tokens: Floats, out_features: Floats, in_features: Floats) -> Floats:
    r"""Floating-point operations of a matrix product.

    .. math:: F = 2\,m\,n\,k

    Parameters
    ----------
    tokens, out_features, in_features : float or array
        Rows m, columns n and depth k of the product.

    Returns
    -------
    float or array
        Operations, an addition and a multiplication counted apart [FLOP].

    References
    ----------
    Definition; the convention of Narayanan et al. 2021 (arXiv:2104.04473), appendix.

    Examples
    --------
    >>> float(gemm_flops(1, 8192, 8192)) / 1e6
    134.217728
    """
    return 2.0 * as_floats(tokens) * as_floats(out_features) * as_floats(in_features)


@formula(
    name="gemm_bytes",
    quantity="bytes",
    equation=r"D = n k w + m k a + m n o",
    source="Definition: every operand is read once and the result written once",
)
def gemm_bytes(
    tokens: Floats,
    out_features: Floats,
    in_features: Floats,
    *,
    weight_bytes: Floats,
    activation_bytes: Floats,
    output_bytes: Floats = 2.0,
) -> Floats:
    r"""Compulsory memory traffic of a matrix product.

    .. math:: D = n k w + m k a + m n o

    Parameters
    ----------
    tokens, out_features, in_features : float or array
        Rows m, columns n and depth k of the product.
    weight_bytes, activation_bytes, output_bytes : float or array
        Bytes per element of weights w, activations a and outputs o [B].

    Returns
    -------
    float or array
        Bytes read and written when nothing is read twice [B].

    References
    ----------
    Williams, Waterman, Patterson 2009 (roofline; compulsory traffic).

    Examples
    --------
    >>> float(gemm_bytes(1, 8192, 8192, weight_bytes=2, activation_bytes=2)) / 1e6
    134.250496
    """
    m, n, k = as_floats(tokens), as_floats(out_features), as_floats(in_features)
    return n * k * weight_bytes + m * k * activation_bytes + m * n * output_bytes
