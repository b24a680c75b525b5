"""Microbenchmark: times of GEMM, attention, memory copies and collectives on this machine, as a case file [s].

Run as ``python -m perfmodel.calibrate.microbench -o cases.csv``; it needs PyTorch: ``pip install 'perfmodel[bench]'``.
The rows are what `perfmodel calibrate` reads: engine "torch" with PyTorch's version, and for collectives "nccl" with
that library's, under which perfmodel looks them up. Memory copies calibrate nothing; their bandwidth is printed beside
the datasheet's and kept in the file that says where the cases come from (``cases.json`` for ``cases.csv``).

``--torch-device cpu`` runs the same program without a GPU, on tiny shapes and under the wall clock. It exists to try
the program out: such times calibrate nothing, and `perfmodel calibrate` refuses them.
"""

import argparse
import datetime
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from perfmodel.calibrate import bench_kernels
from perfmodel.calibrate.bench_grid import (
    COLLECTIVES,
    COLUMNS,
    COPY_BYTES,
    OPERATORS,
    Case,
    bench_cases,
    case_rows,
    measure_cases,
    rotated_copies,
)
from perfmodel.errors import CalibrationError, PerfmodelError, UnknownNameError
from perfmodel.hardware.catalog import load_device
from perfmodel.reports.export import to_csv, to_json, write_whole

FREE_SHARE = 0.8
"""Part of the free memory that the operands of one case may fill."""

CPU_CACHE_BYTES = 2.0**20
"""Cache that is assumed where the timing means nothing anyway [B]."""

FIRST_FP8 = (8, 9)
"""First compute capability with an 8-bit matrix unit."""


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m perfmodel.calibrate.microbench",
        description="Measure a GPU into a case file for 'perfmodel calibrate'.",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="case file (CSV) to write")
    parser.add_argument("--device", help="device id of 'perfmodel hardware list'; found by the GPU's name if it can be")
    parser.add_argument("--profiles", help="directory of profiles that is searched first")
    parser.add_argument("--operators", help=f"comma-separated, of {', '.join(OPERATORS)}; all that can run by default")
    parser.add_argument("--dtypes", help="formats of the GEMMs, of bf16,fp8; by default those that the GPU multiplies")
    parser.add_argument("--torch-device", choices=("cuda", "cpu"), default="cuda", help="cpu: only to try this out")
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--quick", dest="extent", action="store_const", const="quick", help="some 60 GEMMs (default)")
    extent.add_argument("--full", dest="extent", action="store_const", const="full", help="some 600 GEMMs")
    return parser.parse_args(arguments)


def _chosen(text: str | None, known: Iterable[str], kind: str, default: Iterable[str]) -> list[str]:
    names = [name.strip() for name in text.split(",")] if text else list(default)
    for name in names:
        if name not in known:
            raise UnknownNameError(kind, name, known)
    return list(dict.fromkeys(names))


def _note(text: str) -> None:
    sys.stderr.write(f"# {text}\n")


def _driver() -> dict[str, str]:
    """What only the driver knows: its version, clocks and power limit; nothing where it cannot be asked."""
    fields = ("driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit", "temperature.gpu")
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader", "-i", "0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(fields, (part.strip() for part in done.stdout.splitlines()[0].split(",")), strict=False))


def _machine(torch: Any, gpu: bool) -> dict[str, Any]:
    """What was measured, with what."""
    facts: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "seed": bench_kernels.SEED,
    }
    if not gpu:
        return facts | {"device": f"CPU {platform.machine()}", "timer": "wall clock"}
    found = torch.cuda.get_device_properties(0)
    return facts | {
        "device": found.name,
        "devices": torch.cuda.device_count(),
        "multiprocessors": found.multi_processor_count,
        "cache_bytes": getattr(found, "L2_cache_size", None),
        "memory_bytes": found.total_memory,
        "cuda": torch.version.cuda,
        "timer": f"CUDA graphs between events, median of {bench_kernels.REPEATS}",
        **_driver(),
    }


def _copies(torch: Any, target: str, measure: Any, extent: str, cache_bytes: float) -> dict[str, float]:
    """Bandwidth that copies on the device attain, reading and writing counted, by size [B/s]."""
    attained = {}
    for nbytes in COPY_BYTES[extent]:
        calls = bench_kernels.copy_calls(torch, target, nbytes, rotated_copies(2.0 * nbytes, cache_bytes))
        attained[str(nbytes)] = 2.0 * nbytes / measure(calls)
    return attained


def run(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the case file and, beside it, where it comes from.

    Parameters
    ----------
    arguments : sequence of str, optional
        Command line without the program's name; that of the process by default.

    Raises
    ------
    PerfmodelError
        If PyTorch or the GPU is missing, a name is unknown, nothing could be measured or nothing can be written.
    """
    options = _parse(arguments)
    if options.output.suffix == ".json":
        raise CalibrationError(f"{options.output}: give the case file another ending; .json is where it comes from")
    if not options.output.parent.is_dir():
        raise CalibrationError(f"{options.output.parent}: no such directory")
    torch = bench_kernels.import_torch()
    gpu = options.torch_device == "cuda"
    if gpu and not torch.cuda.is_available():
        raise CalibrationError("PyTorch sees no CUDA device; '--torch-device cpu' tries the program out without one")
    extent = (options.extent or "quick") if gpu else "tiny"
    visible = torch.cuda.device_count() if gpu else 0
    singles = [op for op in OPERATORS if op not in COLLECTIVES]
    operators = _chosen(options.operators, OPERATORS, "operator", OPERATORS if visible > 1 else singles)
    fp8 = gpu and torch.cuda.get_device_capability() >= FIRST_FP8
    dtypes = _chosen(options.dtypes, ("bf16", "fp8"), "format", ("bf16", "fp8") if fp8 else ("bf16",))
    if gpu and visible < 2 and set(operators) & set(COLLECTIVES):
        raise CalibrationError(f"collectives need several GPUs, and PyTorch sees {visible}")
    profile = None
    if gpu or options.device:
        profile = load_device(options.device or torch.cuda.get_device_name(0), options.profiles)
    machine = _machine(torch, gpu) | {"hardware": profile.id if profile else "cpu"}
    for name, fact in machine.items():
        _note(f"{name}: {fact}")

    cache = float(machine.get("cache_bytes") or (profile.cache_bytes if gpu and profile else None) or CPU_CACHE_BYTES)
    free = FREE_SHARE * torch.cuda.mem_get_info()[0] if gpu else 2.0**28
    measure = bench_kernels.cuda_timer(torch) if gpu else bench_kernels.cpu_timer()
    left_out: list[str] = []

    def note(text: str) -> None:
        left_out.append(text)
        _note(text)

    copied = _copies(torch, options.torch_device, measure, extent, cache)
    promised = profile.memory_bandwidth if gpu and profile else None
    for nbytes, rate in copied.items():
        share = f", {rate / promised:.0%} of the datasheet's {promised / 1e9:.0f} GB/s" if promised else ""
        _note(f"copy of {int(nbytes) / 2**20:.0f} MiB: {rate / 1e9:.1f} GB/s{share}")
    measured: list[Case] = []
    maker = bench_kernels.kernel_maker(torch, options.torch_device)
    for op in operators:
        if op in COLLECTIVES:
            continue
        cases = bench_cases([op], dtypes, extent)
        _note(f"{op}: {len(cases)} cases")
        measured += measure_cases(cases, maker, measure, cache_bytes=cache, free_bytes=free, note=note)
    together = [op for op in operators if op in COLLECTIVES]
    for ranks in [2**power for power in range(1, 4) if 2**power <= max(visible, 0 if gpu else 2)] if together else []:
        cases = bench_cases(together, dtypes, extent, [ranks])
        _note(f"collectives of {ranks} ranks: {len(cases)} cases")
        if gpu:
            torch.cuda.empty_cache()
        try:
            measured += bench_kernels.measure_collectives(cases, ranks, "nccl" if gpu else "gloo")
        except CalibrationError as error:  # what was measured before is worth keeping
            note(f"left out, {error}")
    if not measured:
        raise CalibrationError("not a single case could be measured; nothing is written")

    library = ("nccl", ".".join(map(str, torch.cuda.nccl.version()))) if gpu and visible > 1 else ("gloo", "")
    engines = {"": ("torch", str(torch.__version__)), **dict.fromkeys(COLLECTIVES, library)}
    rows = case_rows(measured, machine["hardware"], engines)
    write_whole(options.output, to_csv(rows, COLUMNS))
    document = machine | {"cases": len(rows), "copy_bandwidth": copied, "left_out": left_out}
    write_whole(options.output.with_suffix(".json"), to_json(document))
    _note(f"{len(rows)} cases in {options.output}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the microbenchmark as a program: exit code 2 and one line on stderr for whatever goes wrong.

    Parameters
    ----------
    arguments : sequence of str, optional
        Command line without the program's name; that of the process by default.
    """
    try:
        run(arguments)
    except PerfmodelError as error:
        sys.stderr.write(f"microbench: {' '.join(str(error).split())}\n")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        sys.stderr.write("microbench: interrupted; nothing is written\n")
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
