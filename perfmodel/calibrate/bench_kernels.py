"""Times of single PyTorch operators [s]: what is called, and how it is timed on a GPU, on a CPU and over several GPUs.

On a GPU the calls run back to back inside a CUDA graph, each on the next copy of its operands, so that the host is out
of the time and the operands are out of the cache. Replays are timed with CUDA events and the median counts. Operands
are normally distributed from a fixed seed: constant data would draw less power and run at higher clocks.
"""

import datetime
import importlib
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from perfmodel.calibrate.bench_grid import Case, Measure
from perfmodel.errors import CalibrationError

SEED = 0
REPEATS = 9
"""Timed replays, of which the median counts."""

GRAPH_S = 5e-3
"""Time that the calls of one graph should fill, so that launching the graph itself does not show [s]."""

MOST_CALLS = 4000
"""Calls in one graph."""

TIMEOUT_S = 120
"""Time after which a collective that some rank never joined is given up [s]."""


def import_torch() -> Any:
    """Import PyTorch, or say how to get it.

    Returns
    -------
    module
        torch.

    Raises
    ------
    CalibrationError
        If it is not installed.
    """
    try:
        return importlib.import_module("torch")
    except ModuleNotFoundError:
        raise CalibrationError(
            "the microbenchmark needs PyTorch, which is not installed; pip install 'perfmodel[bench]'"
        ) from None


def kernel_maker(torch: Any, device: str) -> Callable[[Case, int], Sequence[Callable[[], Any]]]:
    """Make the calls of a case.

    Parameters
    ----------
    torch : module
        PyTorch.
    device : str
        "cuda" or "cpu".

    Returns
    -------
    callable
        Case and number of copies -> one call per copy of the rotated operands.
    """
    torch.manual_seed(SEED)

    def normal(*shape: int) -> Any:
        return torch.randn(*shape, dtype=torch.bfloat16, device=device)

    def gemm(case: Case, copies: int) -> list[Callable[[], Any]]:
        m, n, k = case["m"], case["n"], case["k"]
        activations = normal(m, k)
        if case["dtype"] == "fp8":
            # The library wants rows of the first and columns of the second operand to be contiguous.
            narrow, one = torch.float8_e4m3fn, torch.ones((), device=device)
            activations = activations.to(narrow)
            weights = [normal(n, k).to(narrow).t() for _ in range(copies)]
            options = {"scale_a": one, "scale_b": one, "out_dtype": torch.bfloat16, "use_fast_accum": True}
            return [lambda w=w: torch._scaled_mm(activations, w, **options) for w in weights]  # type: ignore[misc]
        out = normal(m, n)
        weights = [normal(n, k).t() for _ in range(copies)]
        return [lambda w=w: torch.mm(activations, w, out=out) for w in weights]  # type: ignore[misc]

    def attention(case: Case, copies: int) -> list[Callable[[], Any]]:
        attend = torch.nn.functional.scaled_dot_product_attention
        batch, dim = case["batch"], case["head_dim"]
        options = {"is_causal": case["tokens"] > 1, "enable_gqa": case["heads"] != case["kv_heads"]}
        stored = (batch, case["kv_heads"], case["context"], dim)
        operands = [
            (normal(batch, case["heads"], case["tokens"], dim), normal(*stored), normal(*stored)) for _ in range(copies)
        ]
        return [lambda o=o: attend(*o, **options) for o in operands]  # type: ignore[misc]

    return lambda case, copies: (gemm if case["op"] == "gemm" else attention)(case, copies)


def copy_calls(torch: Any, device: str, nbytes: int, copies: int) -> list[Callable[[], Any]]:
    """Calls that copy memory on the device.

    Parameters
    ----------
    torch : module
        PyTorch.
    device : str
        "cuda" or "cpu".
    nbytes : int
        Bytes that are copied: as many are read and as many written [B].
    copies : int
        Pairs of buffers.

    Returns
    -------
    list of callable
        One call per pair.
    """
    pairs = [tuple(torch.zeros(2, nbytes, dtype=torch.uint8, device=device)) for _ in range(copies)]
    return [lambda pair=pair: pair[0].copy_(pair[1]) for pair in pairs]  # type: ignore[misc]


def cpu_timer(agree: Callable[[float], float] = float) -> Measure:
    """Timer for a CPU: a plain loop under the wall clock.

    Parameters
    ----------
    agree : callable
        Makes all ranks of a collective use the same number.

    Returns
    -------
    callable
        Times a round of calls.
    """

    def measure(calls: Sequence[Callable[[], Any]]) -> float:
        def timed(rounds: int) -> float:
            start = time.perf_counter()
            for _ in range(rounds):
                for call in calls:
                    call()
            return (time.perf_counter() - start) / (rounds * len(calls))

        timed(1)
        rounds = max(1, math.ceil(2e-3 / (agree(timed(1)) * len(calls))))
        return statistics.median(timed(rounds) for _ in range(5))

    return measure


def cuda_timer(torch: Any, agree: Callable[[float], float] = float) -> Measure:
    """Timer for a GPU: CUDA graphs of many calls, replayed between events.

    Parameters
    ----------
    torch : module
        PyTorch.
    agree : callable
        Makes all ranks of a collective use the same number.

    Returns
    -------
    callable
        Times a round of calls.
    """
    stream = torch.cuda.Stream()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def measure(calls: Sequence[Callable[[], Any]]) -> float:
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            for call in calls:  # the first time kernels are loaded and chosen
                call()
            start.record()
            for call in calls:
                call()
            end.record()
        torch.cuda.synchronize()
        round_s = agree(start.elapsed_time(end) * 1e-3)
        rounds = max(1, min(math.ceil(GRAPH_S / round_s), MOST_CALLS // len(calls)))
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as the one that watches over collectives, may go on asking the device meanwhile.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            for _ in range(rounds):
                for call in calls:
                    call()
        times = []
        for _ in range(REPEATS + 2):  # two to warm up
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) * 1e-3)
        return float(statistics.median(times[2:])) / (rounds * len(calls))

    return measure


def measure_collectives(cases: Sequence[Case], ranks: int, backend: str) -> list[Case]:
    """Measure collectives among some processes, one per device.

    Parameters
    ----------
    cases : sequence of dict
        Collectives of this group size.
    ranks : int
        Processes.
    backend : str
        "nccl" on GPUs, "gloo" on a CPU.

    Returns
    -------
    list of dict
        Cases with `measured_s`, the slowest rank's; those that the backend does not have are missing.

    Raises
    ------
    CalibrationError
        If a process fails.
    """
    import_torch()
    processes = importlib.import_module("torch.multiprocessing")
    with tempfile.TemporaryDirectory() as folder:
        try:
            processes.spawn(_rank, args=(list(cases), ranks, backend, folder), nprocs=ranks)
        except (processes.ProcessRaisedException, processes.ProcessExitedException) as error:
            reason = str(error).strip().splitlines()[-1]
            raise CalibrationError(f"collectives of {ranks} ranks: {reason}") from None
        times = json.loads((Path(folder) / "times.json").read_text(encoding="utf-8"))
    return [case | {"measured_s": seconds} for case, seconds in zip(cases, times, strict=True) if seconds is not None]


def _rank(rank: int, cases: list[Case], ranks: int, backend: str, folder: str) -> None:
    torch = import_torch()
    dist = importlib.import_module("torch.distributed")
    gpu = backend == "nccl"
    if gpu:
        torch.cuda.set_device(rank)
    device = f"cuda:{rank}" if gpu else "cpu"
    meeting = (Path(folder) / "meeting").as_uri()
    limit = datetime.timedelta(seconds=TIMEOUT_S)
    dist.init_process_group(backend, init_method=meeting, rank=rank, world_size=ranks, timeout=limit)

    def slowest(seconds: float) -> float:
        value = torch.tensor([seconds], dtype=torch.float64, device=device)
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return float(value.item())

    measure = cuda_timer(torch, slowest) if gpu else cpu_timer(slowest)
    times: list[float | None] = []
    for case in cases:
        elements = case["nbytes"] // 2
        # Zeros stay zeros however often they are added up.
        whole = torch.zeros(elements, dtype=torch.bfloat16, device=device)
        other = torch.zeros(elements, dtype=torch.bfloat16, device=device)
        call = _collective(dist, case["op"], whole, other, ranks)
        try:
            call()  # what a backend does not have it refuses on every rank alike
        except (RuntimeError, NotImplementedError):
            times.append(None)
            continue
        times.append(slowest(measure([call])))
    if rank == 0:
        (Path(folder) / "times.json").write_text(json.dumps(times), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


def _collective(dist: Any, op: str, whole: Any, other: Any, ranks: int) -> Callable[[], Any]:
    part = other[: other.numel() // ranks]
    if op == "all_reduce":
        return lambda: dist.all_reduce(whole)
    # Both were renamed; PyTorch 2.13 has either name, and warns about the older.
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
    if op == "all_gather":
        return lambda: gather(whole, part)
    if op == "reduce_scatter":
        return lambda: scatter(part, whole)
    return lambda: dist.all_to_all_single(other, whole)
