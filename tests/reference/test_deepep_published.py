"""Published figures of DeepEP over several nodes against the forms, of which only the part inside a node was measured.

Source: github.com/deepseek-ai/DeepEP, docs/legacy.md: H800 (NVLink about 160 GB/s, one 400 Gbit/s adapter per GPU),
7168 elements, top 8, fp8 dispatch and bf16 combine. H800 itself was never measured here: the kernels' coefficients are
the defaults of its architecture, fitted to H100 and H200 inside one node.
"""

import numpy as np
import pytest

import perfmodel as pm
from perfmodel.costs.expert_traffic import ranks_reached, units_reached
from perfmodel.estimate.communication import time_collective
from perfmodel.layers.operators import Collective, Exchange
from perfmodel.parallel.grid import plans

# Low-latency kernels, 128 tokens per rank: ranks, dispatch and combine in microseconds.
LOW_LATENCY = [(8, 77, 114), (16, 118, 195), (32, 155, 273), (64, 173, 314), (128, 192, 369), (256, 194, 360)]
# Normal kernels, 4096 tokens per rank, at most four groups per token: ranks, GB/s of the bytes that the page counts:
# one message per rank reached on one node, per node reached (the own one included) on several.
NORMAL = [(8, 153, 158), (16, 43, 43), (32, 58, 57), (64, 51, 50)]
ELEMENT_BYTES = {"dispatch": 1.03125, "combine": 2.0}


def seconds(kind, ranks, tokens, decode):
    moved = Exchange(float(tokens), 7168.0, 256.0, 8.0, decode, groups=8, group_limit=4)
    payload = tokens * 7168.0 * ELEMENT_BYTES[kind] * 8
    time = time_collective(
        Collective(kind, kind, payload, "moe", exchange=moved), pm.target("hgx-h800"), plans(tp=1, dp=ranks, ep=ranks)
    )
    return float(time.seconds)


def test_low_latency_kernels_over_the_network():
    errors = []
    for ranks, *measured in LOW_LATENCY:
        for kind, microseconds in zip(("dispatch", "combine"), measured, strict=True):
            errors.append(seconds(kind, ranks, 128, True) / (microseconds * 1e-6) - 1)
    assert np.abs(errors).mean() < 0.15
    assert np.abs(errors).max() < 0.22


@pytest.mark.parametrize(("ranks", "dispatch", "combine"), NORMAL)
def test_normal_kernels_over_links_and_network(ranks, dispatch, combine):
    reached = ranks_reached(8, 256, ranks) if ranks == 8 else units_reached(8, 256, ranks / 8, 4)
    for kind, published in (("dispatch", dispatch), ("combine", combine)):
        counted = 4096 * 7168 * ELEMENT_BYTES[kind] * float(reached)
        assert counted / seconds(kind, ranks, 4096, False) / 1e9 == pytest.approx(published, rel=0.18)
