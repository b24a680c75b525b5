"""Case files of fused experts as arguments of the closed forms (sizes, routing, gate)."""

from typing import Any

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import as_floats

SHAPE = ("hidden", "intermediate", "topk", "experts", "tp", "ep")
"""Columns that make a shape: none of them on both sides of a hold-out split."""

UNGATED_MODELS = frozenset(
    {
        # (hidden, expert intermediate, topk, experts) of the Nemotron-3 family, relu^2 without a gate; the wider ones
        # project to a latent width before routing. Source: config.json of the models.
        (2688, 1856, 6, 128),
        (1024, 2688, 22, 512),
        (2048, 5120, 22, 512),
        (4096, 2688, 22, 512),
        (8192, 5120, 22, 512),
    }
)
"""Expert shapes that exist only without a gate."""

GATED_VERSIONS = frozenset({"0.5.10", "0.14.0", "1.0.0"})
"""Engine versions (sglang, vllm, trtllm) whose published tables were timed with a gate on every expert."""


def skew_of(routing: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Exponent of the power law in a routing label; zero for a balanced one.

    Parameters
    ----------
    routing : array_like of str
        Labels: "balanced", "random" or "power_law_A" with the exponent A, from 0 to below 4.

    Returns
    -------
    numpy.ndarray
        Exponent of each label, NaN for any other label [1].

    Examples
    --------
    >>> skew_of(["balanced", "power_law_1.2", "zipf"]).tolist()
    [0.0, 1.2, nan]
    """
    labels = np.asarray(routing, dtype=str).reshape(-1)
    known = {label: _exponent(label) for label in np.unique(labels).tolist()}
    return np.array([known[label] for label in labels.tolist()], dtype=np.float64)


def unknown_routing(label: str) -> str:
    """Say what a routing label may be.

    Parameters
    ----------
    label : str
        One that is none.

    Returns
    -------
    str
        Reason.

    Examples
    --------
    >>> unknown_routing("zipf")
    "routing 'zipf': use 'balanced', 'random' or 'power_law_A' with A from 0 to below 4, for instance 'power_law_1.2'"
    """
    known = "'balanced', 'random' or 'power_law_A' with A from 0 to below 4, for instance 'power_law_1.2'"
    return f"routing {label!r}: use {known}"


def _exponent(label: str) -> float:
    if label in ("balanced", "random"):
        return 0.0
    try:
        exponent = float(label.removeprefix("power_law_"))
    except ValueError:
        return float("nan")
    return exponent if 0.0 <= exponent < 4.0 else float("nan")


def _gated(frame: Any) -> npt.NDArray[np.bool_]:
    shapes = np.stack([as_floats(frame[c]) for c in ("hidden", "intermediate", "topk", "experts")], axis=1)
    unique, inverse = np.unique(shapes, axis=0, return_inverse=True)
    ungated = np.array([tuple(int(x) for x in row) in UNGATED_MODELS for row in unique], dtype=bool)
    gated = ~ungated[inverse.reshape(-1)]
    kernel = np.asarray(frame["kernel"], dtype=str) if "kernel" in frame else np.full(gated.size, "")
    version = np.asarray(frame["version"], dtype=str) if "version" in frame else np.full(gated.size, "")
    old = np.isin(version, sorted(GATED_VERSIONS))
    named = np.char.find(kernel, "nongated") >= 0
    return np.asarray((gated | old) & ~named, dtype=bool)


def moe_sizes(frame: Any) -> dict[str, npt.NDArray[Any]]:
    """Map the columns of a case file to the arguments of `experts_grouped`.

    Parameters
    ----------
    frame : mapping of columns
        Case file: tokens, hidden, intermediate, experts, topk, ep, tp, routing, and kernel and version where present.

    Returns
    -------
    dict
        One-dimensional arrays by argument name. `gated` is false for kernels named "nongated" and for the shapes of
        `UNGATED_MODELS`; `warm` is true, because benchmarks run the same layer back to back.

    Raises
    ------
    ValueError
        If a routing label is none of those of `skew_of`.

    Examples
    --------
    >>> case = {"tokens": [8], "hidden": [4096], "intermediate": [1536], "experts": [128], "topk": [8], "ep": [4],
    ...         "tp": [1], "routing": ["balanced"]}
    >>> moe_sizes(case)["gated"].tolist()
    [True]
    """
    columns = {
        "tokens": "tokens",
        "hidden": "hidden",
        "intermediate": "intermediate",
        "experts": "experts",
        "topk": "topk",
        "expert_ranks": "ep",
        "tensor_ranks": "tp",
    }
    sizes: dict[str, npt.NDArray[Any]] = {
        name: as_floats(frame[column]).reshape(-1) for name, column in columns.items()
    }
    labels = np.asarray(frame["routing"], dtype=str).reshape(-1)
    sizes["skew"] = skew_of(labels)
    if np.isnan(sizes["skew"]).any():
        raise ValueError(unknown_routing(str(labels[np.isnan(sizes["skew"])][0])))
    sizes["random"] = labels == "random"
    sizes["gated"] = _gated(frame)
    sizes["warm"] = np.ones(labels.size, dtype=bool)
    return sizes
