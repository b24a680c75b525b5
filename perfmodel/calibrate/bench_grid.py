"""Cases of the microbenchmark: which shapes are measured, on how many copies of their operands, and as which rows."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from perfmodel.costs.formats import get_format

Case: TypeAlias = dict[str, Any]
"""One case: op, dtype and the sizes of its family, by the names of the case file's columns."""

Measure: TypeAlias = Callable[[Sequence[Callable[[], Any]]], float]
"""Times a round of calls of the same operator, each on its own operands; returns the time of one call [s]."""

COLUMNS = (
    "id", "op", "hardware", "engine", "version", "kernel", "dtype", "kv_dtype",
    "m", "n", "k", "weight_copies",
    "batch", "tokens", "context", "heads", "kv_heads", "head_dim", "window",
    "ranks", "nbytes", "measured_s",
)  # fmt: skip
"""Columns of the case file that is written."""

COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
OPERATORS = ("gemm", "prefill_attention", "decode_attention", *COLLECTIVES)
"""Operators that can be measured."""

EXTENTS = ("tiny", "quick", "full")
"""How much is measured: tiny shapes to try the program out, some 60 matrix multiplications, or some 600."""

MOST_COPIES = 256

# Sides of weight matrices, some 2.5 apart and no powers of two throughout, so that waves and tiles fill unevenly.
_SIDES = (256, 768, 2048, 5120, 12288, 28672)
_TINY_SIDES = (64, 96, 160, 224, 256, 320)
_ROWS = {
    "tiny": (1, 8, 33),
    "quick": (1, 16, 128, 1024, 8192),
    "full": (1, 2, 4, 8, 16, 32, 48, 64, 77, 128, 200, 256, 512, 1001, 2048, 4096, 8192),
}
# Query heads, heads of keys and values, dimension of a head.
_HEADS = (
    (32, 8, 128), (8, 1, 128), (64, 8, 128), (16, 16, 128), (32, 8, 64), (4, 1, 128),
    (16, 2, 128), (64, 4, 64), (32, 32, 128), (48, 8, 128),
)  # fmt: skip
_TINY_HEADS = ((4, 4, 16), (4, 2, 16), (4, 1, 16), (8, 2, 16), (8, 4, 32), (2, 1, 32))
_PREFILL = {
    "tiny": ((1, 16), (1, 64), (2, 32), (2, 64)),
    "quick": ((1, 512), (1, 4096), (8, 1024), (1, 16384)),
    "full": (*itertools.product((1, 2, 8), (128, 512, 1024, 4096)), (1, 8192), (1, 16384), (1, 32768)),
}
_DECODE = {
    "tiny": ((1, 64), (4, 64), (4, 256), (8, 512)),
    "quick": ((1, 4096), (16, 1024), (64, 4096), (4, 32768)),
    "full": (*itertools.product((1, 4, 16, 64), (256, 1024, 4096)), (256, 1024), (1, 32768), (16, 32768)),
}
_BUFFERS = {
    "tiny": tuple(2**power for power in range(10, 20)),
    "quick": tuple(2**power for power in range(10, 30)),
    "full": tuple(2**power * part // 4 for power in range(10, 30) for part in (4, 5, 6, 7)),
}
COPY_BYTES = {"tiny": (2**20,), "quick": (2**24, 2**28), "full": (2**22, 2**24, 2**26, 2**28, 2**30)}
"""Sizes of the memory copies [B]."""


def bench_cases(operators: Iterable[str], dtypes: Iterable[str], extent: str, ranks: Iterable[int] = ()) -> list[Case]:
    """List the cases of a run.

    Parameters
    ----------
    operators : iterable of str
        Some of `OPERATORS`.
    dtypes : iterable of str
        Operand formats of the matrix multiplications; attention and collectives run in bf16.
    extent : str
        One of `EXTENTS`.
    ranks : iterable of int
        Group sizes of the collectives.

    Returns
    -------
    list of dict
        Op, formats and sizes of every case.

    Examples
    --------
    >>> len(bench_cases(["gemm"], ["bf16"], "quick")), len(bench_cases(["gemm"], ["bf16"], "full"))
    (60, 612)
    """
    found: list[Case] = []
    groups = tuple(ranks)
    for op in operators:
        if op == "gemm":
            found += [case for dtype in dtypes for case in _gemms(dtype, extent)]
        elif op in COLLECTIVES:
            sizes = itertools.product(groups, _BUFFERS[extent])
            # A buffer is divided among the ranks in whole elements of a few bytes.
            found += [{"op": op, "dtype": "bf16", "ranks": n, "nbytes": b // (16 * n) * 16 * n} for n, b in sizes]
        else:
            found += _attention(op, extent)
    return found


def _gemms(dtype: str, extent: str) -> list[Case]:
    sides = _TINY_SIDES if extent == "tiny" else _SIDES
    pairs = list(itertools.product(enumerate(sides), repeat=2))
    if extent != "full":  # two of the six partners of every side, evenly spread
        pairs = [pair for pair in pairs if (pair[0][0] + pair[1][0]) % 3 == 0]
    return [{"op": "gemm", "dtype": dtype, "m": m, "n": n, "k": k} for (_, n), (_, k) in pairs for m in _ROWS[extent]]


def _attention(op: str, extent: str) -> list[Case]:
    prefill = op == "prefill_attention"
    heads = _TINY_HEADS if extent == "tiny" else _HEADS[:6] if extent == "quick" else _HEADS
    sizes = (_PREFILL if prefill else _DECODE)[extent]
    return [
        {
            "op": op, "kernel": "sdpa", "dtype": "bf16", "kv_dtype": "bf16", "batch": batch,
            "tokens": context if prefill else 1, "context": context,
            "heads": h, "kv_heads": kv, "head_dim": d, "window": 0,
        }
        for (h, kv, d), (batch, context) in itertools.product(heads, sizes)
    ]  # fmt: skip


def operand_bytes(case: Case) -> tuple[float, float]:
    """Bytes of the operands that are rotated, and of those that are there once.

    Parameters
    ----------
    case : dict
        A matrix multiplication or an attention.

    Returns
    -------
    tuple of float
        Weights, or queries, keys and values; then activations and outputs [B].

    Examples
    --------
    >>> operand_bytes({"op": "gemm", "dtype": "bf16", "m": 1, "n": 1024, "k": 2048})
    (4194304.0, 6144.0)
    """
    each = get_format(case["dtype"])
    if case["op"] == "gemm":
        m, n, k = case["m"], case["n"], case["k"]
        return float(n * k * each.weight_bytes), float(m * k * each.activation_bytes + m * n * 2.0)
    queries = case["batch"] * case["tokens"] * case["heads"] * case["head_dim"] * each.activation_bytes
    stored = 2 * case["batch"] * case["context"] * case["kv_heads"] * case["head_dim"] * each.activation_bytes
    return float(queries + stored), float(queries)


def rotated_copies(nbytes: float, cache_bytes: float) -> int:
    """How many copies of the operands to rotate, so that each has left the cache when it is used again.

    Parameters
    ----------
    nbytes : float
        One copy [B].
    cache_bytes : float
        Last-level cache [B].

    Returns
    -------
    int
        Copies that fill the cache twice: at least two, at most `MOST_COPIES`.

    Examples
    --------
    >>> rotated_copies(1e6, 50e6), rotated_copies(1e9, 50e6)
    (100, 2)
    """
    return min(max(math.ceil(2.0 * cache_bytes / nbytes), 2), MOST_COPIES)


def measure_cases(
    cases: Sequence[Case],
    prepare: Callable[[Case, int], Sequence[Callable[[], Any]]],
    measure: Measure,
    *,
    cache_bytes: float,
    free_bytes: float,
    note: Callable[[str], None],
) -> list[Case]:
    """Measure cases one after the other; one that cannot run is noted and left out.

    Parameters
    ----------
    cases : sequence of dict
        What to measure.
    prepare : callable
        Case and number of copies -> one call per copy of the operands.
    measure : callable
        Times a round of calls.
    cache_bytes : float
        Last-level cache [B].
    free_bytes : float
        Memory that the operands may fill [B].
    note : callable
        Told which case was left out, and why.

    Returns
    -------
    list of dict
        Cases with `weight_copies` (matrix multiplications) and `measured_s`.
    """
    measured = []
    for case in cases:
        rotated, once = operand_bytes(case)
        copies = rotated_copies(rotated, cache_bytes)
        if copies * rotated + once > free_bytes:
            note(f"left out, {(copies * rotated + once) / 2**30:.1f} GiB do not fit: {describe(case)}")
            continue
        try:
            seconds = measure(prepare(case, copies))
        except (RuntimeError, MemoryError) as error:
            reason = next(iter(str(error).strip().splitlines()), repr(error))
            note(f"left out, {reason}: {describe(case)}")
            continue
        measured.append(case | ({"weight_copies": copies} if case["op"] == "gemm" else {}) | {"measured_s": seconds})
    return measured


def describe(case: Case) -> str:
    """Write a case on one line.

    Parameters
    ----------
    case : dict
        Case.

    Returns
    -------
    str
        Its operator, format and sizes.

    Examples
    --------
    >>> describe({"op": "all_reduce", "dtype": "bf16", "ranks": 2, "nbytes": 1024})
    'all_reduce bf16 ranks=2 nbytes=1024'
    """
    sizes = [f"{name}={value}" for name, value in case.items() if not isinstance(value, str)]
    return " ".join([case["op"], case["dtype"], *sizes])


def case_rows(measured: Iterable[Case], hardware: str, engines: dict[str, tuple[str, str]]) -> list[Case]:
    """Complete measured cases to the rows of a case file.

    Parameters
    ----------
    measured : iterable of dict
        Cases with `measured_s`.
    hardware : str
        Device id.
    engines : dict
        Engine and version by operator; those of the operator "" for all others.

    Returns
    -------
    list of dict
        Rows with an id, the time to five significant digits.

    Examples
    --------
    >>> case = {"op": "gemm", "dtype": "bf16", "m": 1, "n": 64, "k": 64, "measured_s": 2.123456e-6}
    >>> row = case_rows([case], "h100-sxm", {"": ("torch", "2.13.0")})[0]
    >>> row["id"], row["engine"], row["measured_s"]
    ('bench-000000', 'torch', '2.1235e-06')
    """
    rows = []
    for i, case in enumerate(measured):
        engine, version = engines.get(case["op"], engines[""])
        owner = {"id": f"bench-{i:06d}", "hardware": hardware, "engine": engine, "version": version}
        rows.append(case | owner | {"measured_s": f"{case['measured_s']:.4e}"})
    return rows
