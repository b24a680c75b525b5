"""Bytes of data-parallel gradient and weight exchange, by ZeRO stage."""

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.registry import formula


@formula(
    name="zero_volume",
    quantity="bytes",
    equation=r"V = \frac{n-1}{n}\,(2, 2, 2, 3)\,\Psi",
    source="Rajbhandari et al. 2020, ZeRO (arXiv:1910.02054), section 7: 2 Psi for stages 0 to 2, 3 Psi for stage 3",
)
def zero_volume(nbytes: Floats, ranks: Floats, zero: Floats = 0.0) -> Floats:
    r"""Bytes that one device sends in a step without gradient accumulation, weights and gradients of equal width.

    .. math:: V = \frac{n-1}{n}\,c\,\Psi, \quad c = 2 \text{ for ZeRO 0, 1 and 2}, \; 3 \text{ for ZeRO 3}

    Parameters
    ----------
    nbytes : float or array
        Weights Psi of the device before they are divided [B].
    ranks : float or array
        Data-parallel ranks n.
    zero : float or array
        ZeRO stage, 0 to 3.

    Returns
    -------
    float or array
        Bytes sent, and as many received [B].

    References
    ----------
    Rajbhandari et al. 2020, ZeRO (arXiv:1910.02054), section 7.

    Examples
    --------
    >>> float(zero_volume(2e9, 64, 1)) / 1e9, float(zero_volume(2e9, 64, 3)) / 1e9
    (3.9375, 5.90625)
    """
    n = as_floats(ranks)
    return (n - 1.0) / n * np.where(as_floats(zero) >= 3, 3.0, 2.0) * nbytes
