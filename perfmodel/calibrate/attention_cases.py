"""Sizes of measured attention kernels: case-file columns to the arguments of the attention forms."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from perfmodel.errors import CaseFileError

ELEMENT_BYTES = {"bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0, "nvfp4": 0.5625, "fp32": 4.0}
"""Bytes per element of queries, keys and values, scale factors included [B]."""

NOPE_DIM, ROPE_DIM, VALUE_DIM, LATENT_DIM = 128.0, 64.0, 128.0, 512.0
"""Head dimensions of the measured latent attention: without and with rotary part, values, latent vector."""


def _column(frame: pd.DataFrame, name: str, kind: str) -> npt.NDArray[np.float64]:
    if name not in frame:
        raise CaseFileError(f"{kind} cases need the column {name}; found: {', '.join(map(str, frame.columns))}")
    return np.asarray(frame[name].to_numpy(np.float64))


def _element_bytes(frame: pd.DataFrame, name: str, kind: str) -> npt.NDArray[np.float64]:
    if name not in frame:
        raise CaseFileError(f"{kind} cases need the column {name}; found: {', '.join(map(str, frame.columns))}")
    formats = frame[name].astype(str)
    unknown = sorted(set(formats) - set(ELEMENT_BYTES))
    if unknown:
        raise CaseFileError(f"{kind} cases: {name} {unknown[0]!r} is not one of {', '.join(ELEMENT_BYTES)}")
    return np.array([ELEMENT_BYTES[name] for name in formats], dtype=np.float64)


def attention_sizes(frame: pd.DataFrame, operator: str) -> dict[str, Any]:
    """Map the columns of an attention case file to the size arguments of the attention forms.

    Parameters
    ----------
    frame : pandas.DataFrame
        Columns batch, tokens (prefill only), context, heads, kv_heads, head_dim, window, dtype and kv_dtype.
    operator : {"prefill_attention", "decode_attention"}
        Which form the sizes are for.

    Returns
    -------
    dict
        Arguments of `prefill_attention_tiled` or `decode_attention_split`: float64 arrays.

    Raises
    ------
    CaseFileError
        If a column is missing or a format unknown.
    """
    kind = "attention"
    head_dim = _column(frame, "head_dim", kind)
    sizes: dict[str, Any] = {
        "batch": _column(frame, "batch", kind),
        "context": _column(frame, "context", kind),
        "heads": _column(frame, "heads", kind),
        "kv_heads": _column(frame, "kv_heads", kind),
        "qk_head_dim": head_dim,
        "v_head_dim": head_dim,
        "window": _column(frame, "window", kind) if "window" in frame else np.zeros(len(frame)),
        "query_bytes": _element_bytes(frame, "dtype", kind),
        "kv_bytes": _element_bytes(frame, "kv_dtype", kind),
    }
    if operator == "prefill_attention":
        sizes["tokens"] = _column(frame, "tokens", kind)
    return sizes


def mla_sizes(frame: pd.DataFrame, operator: str) -> dict[str, Any]:
    """Map the columns of a latent-attention case file to the size arguments of the attention forms.

    Parameters
    ----------
    frame : pandas.DataFrame
        Columns batch, tokens (prefill only), context, heads, dtype and kv_dtype.
    operator : {"prefill_mla", "decode_mla"}
        Prefill sizes are those of the expanded form, one KV head per head with 192 and 128 elements; whether the
        kernel works in the absorbed form instead is its attribute. Decode sizes are absorbed: one KV head, 576 and
        512 elements, of which 576 are stored.

    Returns
    -------
    dict
        Arguments of `prefill_attention_tiled` or `decode_attention_split`: float64 arrays.

    Raises
    ------
    CaseFileError
        If a column is missing or a format unknown.
    """
    kind = "latent attention"
    heads = _column(frame, "heads", kind)
    decode = operator == "decode_mla"
    ones = np.ones(len(frame))
    sizes: dict[str, Any] = {
        "batch": _column(frame, "batch", kind),
        "context": _column(frame, "context", kind),
        "heads": heads,
        "kv_heads": ones if decode else heads,
        "qk_head_dim": ones * (LATENT_DIM + ROPE_DIM if decode else NOPE_DIM + ROPE_DIM),
        "v_head_dim": ones * (LATENT_DIM if decode else VALUE_DIM),
        "window": 0.0 * ones,
        "query_bytes": _element_bytes(frame, "dtype", kind),
        "kv_bytes": _element_bytes(frame, "kv_dtype", kind),
    }
    if decode:
        sizes["kv_elements"] = ones * (LATENT_DIM + ROPE_DIM)
    else:
        sizes["tokens"] = _column(frame, "tokens", kind)
    return sizes
