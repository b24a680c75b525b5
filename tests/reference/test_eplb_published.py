"""The example of EPLB's page: two layers of twelve experts in four groups, sixteen places on eight GPUs of two nodes.

Source: github.com/deepseek-ai/EPLB, README (DeepSeek 2025): loads, and the expert in every place.
"""

import numpy as np
import pytest

from perfmodel.ranking.expert_balance import balanced_experts

LOADS = [[90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86], [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27]]
PLACES = [
    [5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1],
    [7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1],
]


@pytest.mark.parametrize("layer", [0, 1])
def test_copies_and_the_busiest_gpu_of_the_example(layer):
    load, published = np.array(LOADS[layer]), np.array(PLACES[layer])
    copies = np.bincount(published, minlength=12)
    found = balanced_experts(load, 8, 4, nodes=2, groups=4)
    assert np.bincount(found.experts.ravel(), minlength=12).tolist() == copies.tolist()
    on_gpus = (load / copies)[published].reshape(8, 2).sum(axis=1)
    assert found.loads.max() <= on_gpus.max() * (1 + 1e-12)
    assert found.loads.sum() == pytest.approx(on_gpus.sum())
    # The same groups share a node.
    nodes = [{frozenset(node // 3) for node in places.reshape(2, 8)} for places in (found.experts, published)]
    assert nodes[0] == nodes[1]
    # Without regard to groups the load is spread better.
    assert balanced_experts(load, 8, 4).imbalance <= found.imbalance
