"""Sizes of measured matrix multiplications: case-file columns to the arguments of the GEMM form."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from perfmodel.costs.formats import get_format
from perfmodel.errors import CaseFileError


def weight_copies(frame: pd.DataFrame, cache_bytes: float) -> npt.NDArray[np.float64]:
    """Return how many copies of the weights a benchmark rotates, so that they are not all found in the cache.

    Parameters
    ----------
    frame : pandas.DataFrame
        Columns n, k, dtype and, where known, engine.
    cache_bytes : float
        Last-level cache of the device [B].

    Returns
    -------
    numpy.ndarray
        Copies per row: trtllm as many as exceed the cache, five at most; vllm one for block formats; six otherwise.
    """
    n, k = frame["n"].to_numpy(np.float64), frame["k"].to_numpy(np.float64)
    dtype = frame["dtype"].astype(str).to_numpy()
    engine = frame["engine"].astype(str).to_numpy() if "engine" in frame else np.full(len(frame), "")
    each = {name: get_format(name).weight_bytes for name in set(dtype)}
    weights = n * k * np.array([each[name] for name in dtype], dtype=np.float64)
    exceeding = np.clip(np.ceil(cache_bytes / weights), 1.0, 5.0)
    block = np.isin(dtype, ("fp8_block", "nvfp4"))
    return np.where(engine == "trtllm", exceeding, np.where((engine == "vllm") & block, 1.0, 6.0))


def gemm_sizes(frame: pd.DataFrame, cache_bytes: float | None = None) -> dict[str, Any]:
    """Map the columns of a GEMM case file to the size arguments of `gemm_tiled`.

    Parameters
    ----------
    frame : pandas.DataFrame
        Columns m, n and k; dtype and engine where the copies of the weights are wanted.
    cache_bytes : float, optional
        Last-level cache of the device. With it the benchmark's rotation of weights is reproduced; without it
        weights are cold, as they are in a model [B].

    Returns
    -------
    dict
        tokens, out_features, in_features and, with `cache_bytes`, weight_copies: float64 arrays.

    Raises
    ------
    CaseFileError
        If a column is missing.
    """
    missing = [name for name in ("m", "n", "k") if name not in frame]
    if missing:
        raise CaseFileError(f"GEMM cases need the columns m, n and k; missing: {', '.join(missing)}")
    sizes = {
        "tokens": frame["m"].to_numpy(np.float64),
        "out_features": frame["n"].to_numpy(np.float64),
        "in_features": frame["k"].to_numpy(np.float64),
    }
    if cache_bytes is not None and "dtype" in frame:
        copies = weight_copies(frame, cache_bytes)
        if "weight_copies" in frame:  # a file that says how it was measured knows best
            said = pd.to_numeric(frame["weight_copies"], errors="coerce").to_numpy(np.float64)
            copies = np.where(said >= 1.0, said, copies)
        sizes["weight_copies"] = copies
    return sizes
