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
        Labels: "balanced", "random" or "power_law_A" with the exponent A.

    Returns
    -------
    numpy.ndarray
        Exponent of each label [1].

    Raises
    ------
    ValueError
        For any other label.

    Examples
    --------
    >>> skew_of(["balanced", "power_law_1.2"]).tolist()
    [0.0, 1.2]
    """
    labels = np.asarray(routing, dtype=str).reshape(-1)
    known: dict[str, float] = {}
    for label in np.unique(labels).tolist():
        if label in ("balanced", "random"):
            known[label] = 0.0
            continue
        try:
            known[label] = float(label.removeprefix("power_law_"))
        except ValueError:
            raise ValueError(
                f"routing {label!r}: use 'balanced', 'random' or 'power_law_A', e.g. 'power_law_1.2'"
            ) from None
    return np.array([known[label] for label in labels.tolist()], dtype=np.float64)


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
    sizes["random"] = labels == "random"
    sizes["gated"] = _gated(frame)
    sizes["warm"] = np.ones(labels.size, dtype=bool)
    return sizes
