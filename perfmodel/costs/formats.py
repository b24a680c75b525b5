"""Number formats: bytes per element, scales included, and the matrix rate that a format runs at."""

from collections.abc import Mapping
from dataclasses import dataclass

from perfmodel.errors import UnknownNameError


@dataclass(frozen=True, slots=True)
class Format:
    """How the operands of a matrix product are stored and multiplied.

    Parameters
    ----------
    name : str
        Name used in case files, profiles and the command line.
    weight_bytes : float
        Bytes per weight element, block scales included [B].
    activation_bytes : float
        Bytes per activation element as the kernel reads it [B].
    peak : str
        Key of the device's peak rate that the product runs at.
    meaning : str
        One line for the documentation.
    """

    name: str
    weight_bytes: float
    activation_bytes: float
    peak: str
    meaning: str


def _formats() -> dict[str, Format]:
    rows = (
        Format("fp64", 8, 8, "fp64", "IEEE double"),
        Format("fp32", 4, 4, "fp32", "IEEE single"),
        Format("tf32", 4, 4, "tf32", "single, multiplied with 10-bit mantissas"),
        Format("bf16", 2, 2, "bf16", "bfloat16"),
        Format("fp16", 2, 2, "fp16", "IEEE half"),
        Format("fp8", 1, 1, "fp8", "8-bit float, one scale per tensor or channel"),
        # One fp32 scale per 128 x 128 weight block is 0.02 %: not counted.
        Format("fp8_block", 1, 1, "fp8", "8-bit float, a scale per 128 x 128 weight block"),
        Format("mxfp8", 1 + 1 / 32, 1 + 1 / 32, "fp8", "8-bit float, an 8-bit scale per 32 elements (OCP MX 1.0)"),
        Format("int8", 1, 1, "int8", "8-bit integer"),
        Format("sq", 1, 1, "int8", "8-bit integer, SmoothQuant scales"),
        Format("int8_wo", 1, 2, "bf16", "8-bit integer weights, 16-bit activations"),
        Format("int4_wo", 0.5, 2, "bf16", "4-bit integer weights, 16-bit activations"),
        Format("nvfp4", 0.5 + 1 / 16, 0.5 + 1 / 16, "fp4", "4-bit float, an 8-bit scale per 16 elements"),
        Format("mxfp4", 0.5 + 1 / 32, 0.5 + 1 / 32, "fp4", "4-bit float, an 8-bit scale per 32 elements (OCP MX 1.0)"),
        Format("w4a16_mxfp4", 0.5 + 1 / 32, 2, "bf16", "mxfp4 weights, 16-bit activations"),
        Format("w4a8_mxfp4_mxfp8", 0.5 + 1 / 32, 1 + 1 / 32, "fp8", "mxfp4 weights, mxfp8 activations"),
    )
    return {row.name: row for row in rows}


FORMATS: Mapping[str, Format] = _formats()
"""Every number format by name."""

# What the hardware does where it has no unit for a format: weights are unpacked to the next wider one.
_WIDER = {"fp4": "bf16", "fp6": "bf16", "fp8": "bf16", "int8": "bf16", "bf16": "fp16", "fp16": "bf16", "tf32": "fp32"}


def get_format(name: str) -> Format:
    """Look a number format up by name.

    Parameters
    ----------
    name : str
        Name of the format.

    Returns
    -------
    Format
        Its bytes and its rate.

    Raises
    ------
    UnknownNameError
        If there is no such format.

    Examples
    --------
    >>> get_format("nvfp4").weight_bytes
    0.5625
    """
    try:
        return FORMATS[name]
    except KeyError:
        raise UnknownNameError("number format", name, FORMATS) from None


def peak_of(name: str, peaks: Mapping[str, float]) -> float:
    """Rate of a format on a device, falling back to the wider format that its kernels unpack to.

    A device without an 8-bit or 4-bit unit multiplies unpacked 16-bit operands (as weight-only kernels do),
    so the bytes stay small and the rate is the 16-bit one.

    Parameters
    ----------
    name : str
        Number format.
    peaks : mapping
        Dense peak by format key, as in a device profile [FLOP/s].

    Returns
    -------
    float
        Dense peak for products in that format [FLOP/s].

    Raises
    ------
    UnknownNameError
        If the device has no rate for the format or any wider one.

    Examples
    --------
    >>> peak_of("nvfp4", {"bf16": 312e12}) / 1e12
    312.0
    """
    key = get_format(name).peak
    seen: list[str] = []
    while key not in peaks:
        seen.append(key)
        key = _WIDER.get(key, "")
        if not key or key in seen:
            raise UnknownNameError("rate for format", name, peaks)
    return peaks[key]
