"""What the benchmarks share: one machine to run plans on, and seeded shapes."""

import numpy as np
import pytest

import perfmodel as pm
from perfmodel.estimate.target import Target


@pytest.fixture(scope="session")
def machine() -> Target:
    """Eight H200 with TensorRT-LLM, all of whose kernels were measured."""
    return pm.target("hgx-h200", "trtllm")


@pytest.fixture
def random() -> np.random.Generator:
    """The same random numbers in every run."""
    return np.random.default_rng(0)
