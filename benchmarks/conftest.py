"""What the benchmarks share: one machine to run plans on, and seeded shapes."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import perfmodel as pm
from perfmodel.estimate.target import Target


@pytest.fixture(scope="session")
def machine() -> Target:
    """Eight H200 with TensorRT-LLM, all of whose kernels were measured."""
    return pm.target("hgx-h200", "trtllm")


@pytest.fixture
def peak_memory() -> Callable[[str], float]:
    """Most memory that a program has held in a process of its own, interpreter and libraries included [B]."""

    def measure(program: str) -> float:
        # Not the peak of getrusage, in which a new process inherits that of its parent.
        program += "; print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
        root = Path(__file__).resolve().parents[1]
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=root)
        return float(done.stdout.split()[-1]) * 1024.0

    return measure


@pytest.fixture
def random() -> np.random.Generator:
    """The same random numbers in every run."""
    return np.random.default_rng(0)
