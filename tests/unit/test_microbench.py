"""Microbenchmark: shape grids, timers and files, on a simulated GPU whose times follow the registered formulas."""

import contextlib
import functools
import importlib.util
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from perfmodel.calibrate import bench_kernels, microbench
from perfmodel.calibrate.bench_grid import (
    COLLECTIVES,
    COLUMNS,
    EXTENTS,
    MOST_COPIES,
    OPERATORS,
    bench_cases,
    case_rows,
    measure_cases,
    operand_bytes,
    rotated_copies,
)
from perfmodel.calibrate.cases import read_cases
from perfmodel.calibrate.families import FAMILY_OF
from perfmodel.calibrate.operators import FEWEST_POINTS, FEWEST_SHAPES, calibrate_operators
from perfmodel.costs.attention_decode import decode_attention_split
from perfmodel.costs.attention_prefill import prefill_attention_tiled
from perfmodel.costs.collective_kernels import nccl_collective
from perfmodel.costs.gemm import gemm_tiled
from perfmodel.errors import CalibrationError
from perfmodel.estimate.timing import device_numbers
from perfmodel.hardware.catalog import load_device
from perfmodel.hardware.kernel_files import load_kernel_table

DEVICE = load_device("h100-sxm")


# Shapes


@pytest.mark.parametrize("extent", EXTENTS)
@pytest.mark.parametrize("op", OPERATORS)
def test_every_grid_is_large_enough_to_calibrate_and_repeats_nothing(op, extent):
    cases = bench_cases([op], ["bf16"], extent, ranks=[2, 4])
    family = FAMILY_OF[op]
    assert len({tuple(case.items()) for case in cases}) == len(cases) >= FEWEST_POINTS
    assert len({tuple(case.get(name) for name in family.shape) for case in cases}) >= FEWEST_SHAPES
    for case in cases:
        assert set(case) <= set(COLUMNS)
        assert all(case[name] > 0 for name in family.numbers)


def test_sizes_of_the_runs():
    singles = ("prefill_attention", "decode_attention")
    assert len(bench_cases(["gemm"], ["bf16", "fp8"], "quick")) == 120
    assert len(bench_cases(singles, ["bf16"], "quick")) == 48
    assert len(bench_cases(["gemm"], ["bf16"], "full")) == 612
    assert len(bench_cases(singles, ["bf16"], "full")) == 300


@pytest.mark.parametrize("extent", EXTENTS)
def test_grids_suit_the_kernels(extent):
    for case in bench_cases(OPERATORS, ["fp8"], extent, ranks=[2, 4, 8]):
        if case["op"] == "gemm":
            assert case["n"] % 16 == case["k"] % 16 == 0
        elif case["op"] in COLLECTIVES:
            assert case["nbytes"] % (16 * case["ranks"]) == 0
        else:
            assert case["heads"] % case["kv_heads"] == 0
            assert case["tokens"] == (case["context"] if case["op"] == "prefill_attention" else 1)


def test_every_side_of_the_quick_grid_is_a_row_and_a_column():
    cases = bench_cases(["gemm"], ["bf16"], "quick")
    assert {case["n"] for case in cases} == {case["k"] for case in cases}
    assert len({case["n"] for case in cases}) == 6


def test_operands():
    decode = {
        "op": "decode_attention", "dtype": "bf16", "kv_dtype": "bf16", "batch": 4, "tokens": 1, "context": 1000,
        "heads": 8, "kv_heads": 2, "head_dim": 64,
    }  # fmt: skip
    queries, stored = 4 * 8 * 64 * 2, 2 * 4 * 1000 * 2 * 64 * 2
    assert operand_bytes(decode) == (queries + stored, queries)
    assert operand_bytes({"op": "gemm", "dtype": "fp8", "m": 2, "n": 32, "k": 64}) == (32 * 64, 2 * 64 + 2 * 32 * 2)


def test_copies_outgrow_the_cache():
    for nbytes in (1e6, 3e7, 5e7, 1e9):
        copies = rotated_copies(nbytes, 50e6)
        assert copies >= 2
        assert copies * nbytes >= 2 * 50e6
    assert rotated_copies(1.0, 50e6) == MOST_COPIES


# Measuring


def test_cases_that_cannot_run_are_noted_and_left_out():
    cases = bench_cases(["gemm"], ["bf16"], "tiny")[:4]
    notes, rounds = [], []

    def prepare(case, copies):
        if case is cases[1]:
            raise RuntimeError("no such kernel\nmore about it")
        return [lambda: None] * copies

    def measure(calls):
        rounds.append(len(calls))
        return 1e-6 * len(rounds)

    limit = max(sum(operand_bytes(case)) for case in cases) * 300
    huge = {"op": "gemm", "dtype": "bf16", "m": 10**6, "n": 10**6, "k": 64}
    measured = measure_cases(
        [*cases, huge], prepare, measure, cache_bytes=1e5, free_bytes=limit, note=notes.append
    )  # fmt: skip
    assert [case["measured_s"] for case in measured] == [1e-6, 2e-6, 3e-6]
    assert [case["weight_copies"] for case in measured] == rounds
    assert len(notes) == 2
    assert "no such kernel: gemm bf16 m=8" in notes[0]
    assert "more about it" not in notes[0]
    assert "do not fit: gemm bf16 m=1000000" in notes[1]


def test_rows_name_the_library_of_each_operator():
    cases = [case | {"measured_s": 1.23456789e-5} for case in bench_cases(OPERATORS, ["bf16"], "tiny", [2])]
    rows = case_rows(cases, "h100-sxm", {"": ("torch", "2.13.0"), "all_reduce": ("nccl", "2.29.2")})
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        assert set(row) <= set(COLUMNS)
        assert row["hardware"] == "h100-sxm"
        assert (row["engine"], row["version"]) == (
            ("nccl", "2.29.2") if row["op"] == "all_reduce" else ("torch", "2.13.0")
        )
        assert row["measured_s"] == "1.2346e-05"


def test_cpu_timer_counts_every_call_once(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(bench_kernels.time, "perf_counter", lambda: clock[0])

    def call(seconds):
        clock[0] += seconds

    measure = bench_kernels.cpu_timer()
    assert measure([lambda: call(1e-5), lambda: call(3e-5)]) == pytest.approx(2e-5)


# A GPU that is not there: every call advances its clock by what a formula says.


class Tensor:
    def __init__(self, *shape, bytes=2):
        self.shape, self.bytes = shape, bytes

    def t(self):
        return Tensor(*self.shape[::-1], bytes=self.bytes)

    def to(self, dtype):
        return Tensor(*self.shape, bytes=dtype)

    def copy_(self, other):
        GPU.spend(2.0 * other.shape[0] / 3e12)

    def __iter__(self):
        return iter([Tensor(*self.shape[1:], bytes=1) for _ in range(self.shape[0])])


class FakeGpu:
    """Enough of torch for the microbenchmark, with simulated time."""

    bfloat16, float8_e4m3fn, uint8, __version__ = 2, 1, 1, "2.13.0"
    version = SimpleNamespace(cuda="13.0")

    def __init__(self, devices=1):
        self.clock, self.devices, self.capturing = 0.0, devices, None
        self.rng = np.random.default_rng(7)
        self.cuda = SimpleNamespace(
            is_available=lambda: devices > 0,
            device_count=lambda: devices,
            get_device_capability=lambda: (9, 0),
            get_device_name=lambda _: "NVIDIA H100 80GB HBM3",
            get_device_properties=lambda _: SimpleNamespace(
                name="NVIDIA H100 80GB HBM3", multi_processor_count=132, L2_cache_size=50 * 2**20, total_memory=80e9
            ),
            mem_get_info=lambda: (79e9, 80e9),
            synchronize=lambda: None,
            empty_cache=lambda: None,
            Stream=object,
            Event=lambda **_: FakeEvent(self),
            stream=lambda _: contextlib.nullcontext(),
            CUDAGraph=lambda: FakeGraph(self),
            graph=lambda graph, **_: graph,
            nccl=SimpleNamespace(version=lambda: (2, 29, 2)),
        )
        self.nn = SimpleNamespace(functional=SimpleNamespace(scaled_dot_product_attention=self.attend))

    def spend(self, seconds):
        if self.capturing is None:
            self.clock += seconds
        else:
            self.capturing.append(seconds)

    def manual_seed(self, seed):
        pass

    def randn(self, *shape, dtype, device):
        return Tensor(*shape, bytes=dtype)

    def zeros(self, *shape, dtype, device):
        return Tensor(*shape, bytes=dtype)

    def ones(self, shape, device):
        return Tensor(bytes=4)

    def mm(self, a, w, out):
        assert a.shape[1] == w.shape[0]
        assert out.shape == (a.shape[0], w.shape[1])
        self.spend(gemm_s(a.shape[0], w.shape[1], a.shape[1], "bf16"))

    def _scaled_mm(self, a, w, *, scale_a, scale_b, out_dtype, use_fast_accum):
        assert a.bytes == w.bytes == 1
        self.spend(gemm_s(a.shape[0], w.shape[1], a.shape[1], "fp8"))

    def attend(self, q, k, v, *, is_causal, enable_gqa):
        assert k.shape == v.shape
        assert enable_gqa == (q.shape[1] != k.shape[1])
        assert is_causal == (q.shape[2] > 1)
        self.spend(attention_s(*q.shape, k.shape[1], k.shape[2]))


class FakeEvent:
    def __init__(self, gpu):
        self.gpu = gpu

    def record(self):
        self.at = self.gpu.clock

    def synchronize(self):
        pass

    def elapsed_time(self, end):
        return (end.at - self.at) * 1e3


class FakeGraph:
    def __init__(self, gpu):
        self.gpu, self.calls = gpu, []

    def __enter__(self):
        self.gpu.capturing = self.calls

    def __exit__(self, *_):
        self.gpu.capturing = None

    def replay(self):
        # The host takes a while to launch, every hundredth replay is disturbed, and no two are the same.
        jitter = 1.0 + 0.01 * self.gpu.rng.standard_normal() + (self.gpu.rng.random() < 0.01)
        self.gpu.clock += 5e-6 + sum(self.calls) * jitter


TRUE_GEMM = {
    "launch_s": 4e-6, "compute_efficiency": 0.6, "memory_efficiency": 0.7, "fill_bandwidth": 1.5e11,
    "split_s": 4e-6, "depth_s": 1.8e-9, "throttle": 0.4,
}  # fmt: skip
TRUE_PREFILL = {"launch_s": 1.2e-5, "mma_efficiency": 0.4, "query_passes": 0.02, "kv_passes": 0.02}
TRUE_DECODE = {"launch_s": 1.2e-5, "memory_efficiency": 0.6, "fill_bandwidth": 5e10, "query_passes": 0.02}
GPU = FakeGpu()


@functools.cache
def gemm_s(m, n, k, format):
    numbers = device_numbers(DEVICE, format)
    return float(gemm_tiled(m, n, k, **numbers, **TRUE_GEMM))


@functools.cache
def attention_s(batch, heads, tokens, dim, kv_heads, context):
    numbers = device_numbers(DEVICE, "bf16")
    rates = {name: numbers[name] for name in ("peak_flops", "memory_bandwidth", "cores")}
    common = (context, heads, kv_heads, dim, dim, 0.0)
    if tokens == 1:
        return float(decode_attention_split(batch, *common, **rates, **TRUE_DECODE))
    return float(prefill_attention_tiled(batch, tokens, *common, **rates, **TRUE_PREFILL))


@pytest.fixture
def gpu(monkeypatch):
    def install(devices=1):
        global GPU
        GPU = FakeGpu(devices)
        monkeypatch.setattr(bench_kernels, "import_torch", lambda: GPU)
        monkeypatch.setattr(bench_kernels, "MOST_CALLS", 300)
        return GPU

    return install


def test_cuda_timer_is_right_whatever_the_launch_costs(gpu):
    fake = gpu()
    measure = bench_kernels.cuda_timer(fake)
    for seconds in (3e-6, 2e-4, 3e-2):
        calls = [lambda s=s: fake.spend(s) for s in (0.5 * seconds, 1.5 * seconds)]
        assert measure(calls) == pytest.approx(seconds, rel=0.02)


def test_a_run_on_a_gpu_writes_cases_that_calibrate_better_than_what_was_known(gpu, tmp_path, capsys):
    gpu()
    file = tmp_path / "cases.csv"
    microbench.main(["-o", str(file)])
    cases = read_cases(file, COLUMNS)
    assert cases.groupby(["op", "dtype"]).size().to_dict() == {
        ("gemm", "bf16"): 60, ("gemm", "fp8"): 60, ("prefill_attention", "bf16"): 24, ("decode_attention", "bf16"): 24,
    }  # fmt: skip
    assert set(cases["hardware"]) == {"h100-sxm"}
    assert set(cases["engine"]) == {"torch"}
    case = cases[(cases.m == 128) & (cases.n == 2048) & (cases.dtype == "fp8")].iloc[0]
    assert case.measured_s == pytest.approx(gemm_s(128, 2048, case.k, "fp8"), rel=0.05)

    about = json.loads((tmp_path / "cases.json").read_text())
    assert about["device"] == "NVIDIA H100 80GB HBM3"
    assert about["cases"] == len(cases)
    assert about["copy_bandwidth"]["268435456"] == pytest.approx(3e12, rel=0.05)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cases.csv", "cases.json"]
    out, err = capsys.readouterr()
    assert out == ""
    assert "copy of 256 MiB: " in err
    assert "% of the datasheet's 3350 GB/s" in err

    kernels = load_kernel_table(DEVICE.id, DEVICE.architecture)
    fitted, _ = calibrate_operators(cases, DEVICE, "torch", kernels, source="simulated")
    assert [item.kernel["operator"] for item in fitted] == ["gemm", "gemm", "prefill_attention", "decode_attention"]
    for item in fitted:
        assert item.kernel["provenance"]["heldout_mape"] < 0.6 * item.before_mape, item.kernel["operator"]
        assert item.kernel["provenance"]["heldout_mape"] < 10.0, item.kernel["operator"]
    # A bare product quantises nothing, though the serving engines' kernels that it starts from do.
    assert fitted[1].kernel["attributes"]["quantise"] is False


def test_collectives_run_in_groups_of_powers_of_two_under_the_library_name(gpu, tmp_path, monkeypatch):
    gpu(devices=4)
    groups = []

    def measured(cases, ranks, backend):
        groups.append((ranks, backend))
        return [
            case | {"measured_s": float(nccl_collective(case["nbytes"], ranks, bandwidth=450e9, op=case["op"]))}
            for case in cases
        ]

    monkeypatch.setattr(bench_kernels, "measure_collectives", measured)
    file = tmp_path / "cases.csv"
    microbench.main(["-o", str(file), "--operators", "all_reduce,all_to_all"])
    cases = read_cases(file, COLUMNS)
    assert groups == [(2, "nccl"), (4, "nccl")]
    assert set(cases["engine"]) == {"nccl"}
    assert set(cases["version"]) == {"2.29.2"}
    kernels = load_kernel_table(DEVICE.id, DEVICE.architecture)
    fitted, _ = calibrate_operators(cases, DEVICE, "nccl", kernels, source="simulated")
    assert all(item.kernel["provenance"]["fit_mape"] < min(5.0, item.before_mape) for item in fitted)


def test_a_group_that_fails_costs_only_itself(gpu, tmp_path, monkeypatch, capsys):
    gpu(devices=2)

    def fail(cases, ranks, backend):
        raise CalibrationError("collectives of 2 ranks: no route")

    monkeypatch.setattr(bench_kernels, "measure_collectives", fail)
    microbench.main(["-o", str(tmp_path / "c.csv"), "--operators", "decode_attention,all_reduce"])
    assert len(read_cases(tmp_path / "c.csv", COLUMNS)) == 24
    assert "left out, collectives of 2 ranks: no route" in capsys.readouterr().err


# Refusals


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        microbench.main(list(arguments))
    error = capsys.readouterr().err
    assert stop.value.code == 2
    return error.splitlines()[-1]


def test_without_torch_one_line_names_the_extra(monkeypatch, capsys, tmp_path):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(bench_kernels.importlib, "import_module", missing)
    assert "pip install 'perfmodel[bench]'" in refused(capsys, "-o", str(tmp_path / "c.csv"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("devices", "arguments", "expected"),
    [
        (0, [], "sees no CUDA device"),
        (1, ["--operators", "gem"], "unknown operator 'gem'. Did you mean 'gemm'?"),
        (1, ["--operators", "copy"], "unknown operator 'copy'"),
        (1, ["--dtypes", "fp9"], "unknown format 'fp9'"),
        (1, ["--operators", "all_reduce"], "several GPUs"),
        (1, ["--device", "h101"], "unknown device 'h101'. Did you mean"),
    ],
)
def test_bad_requests_are_one_line(gpu, capsys, tmp_path, devices, arguments, expected):
    gpu(devices)
    line = refused(capsys, "-o", str(tmp_path / "c.csv"), *arguments)
    assert line.startswith("microbench: ")
    assert expected in line
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written_are_refused_before_measuring(capsys, tmp_path):
    assert "no such directory" in refused(capsys, "-o", str(tmp_path / "no" / "c.csv"))
    assert "another ending" in refused(capsys, "-o", str(tmp_path / "c.json"))


def test_nothing_is_written_when_nothing_could_be_measured_or_it_was_interrupted(gpu, capsys, tmp_path, monkeypatch):
    fake = gpu()
    arguments = ("-o", str(tmp_path / "c.csv"), "--operators", "gemm", "--dtypes", "bf16")

    def broken(*_, **__):
        raise RuntimeError("CUDA error: no kernel image")

    fake.mm = broken
    assert "not a single case" in refused(capsys, *arguments)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    fake.mm = interrupted
    assert "interrupted; nothing is written" in refused(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch is not installed (extra: bench)"
)


def run_on_cpu(file, *arguments):
    program = [sys.executable, "-m", "perfmodel.calibrate.microbench", "-o", str(file), "--torch-device", "cpu"]
    done = subprocess.run([*program, *arguments], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return read_cases(file, COLUMNS)


@needs_torch
def test_the_real_thing_runs_on_a_cpu_and_calibrates_nothing(tmp_path):
    cases = run_on_cpu(tmp_path / "cases.csv", "--device", "h100-sxm")
    assert cases.groupby("op").size().to_dict() == {"gemm": 36, "prefill_attention": 24, "decode_attention": 24}
    assert (cases["measured_s"] > 0).all()
    with pytest.raises(CalibrationError, match="times the least time that the datasheet allows"):
        calibrate_operators(cases, DEVICE, "torch", load_kernel_table("h100-sxm", "hopper"), source="cpu")


@needs_torch
def test_real_collectives_run_between_two_processes(tmp_path):
    cases = run_on_cpu(tmp_path / "cases.csv", "--operators", ",".join(COLLECTIVES))
    assert cases.groupby(["op", "ranks"]).size().to_dict() == {(op, 2): 10 for op in COLLECTIVES}
    assert set(cases["engine"]) == {"gloo"}


@needs_torch
def test_processes_that_fail_are_one_line():
    with pytest.raises(CalibrationError, match="collectives of 2 ranks: ") as caught:
        bench_kernels.measure_collectives(bench_cases(["all_reduce"], [], "tiny", [2]), 2, "carrier-pigeon")
    assert "\n" not in str(caught.value)
