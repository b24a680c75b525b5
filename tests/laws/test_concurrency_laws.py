"""Laws of the search for a concurrency: the best between two steps of a ladder, whatever is searched beside it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import perfmodel as pm
from perfmodel.parallel.grid import KNOBS, concurrency_ladder
from perfmodel.ranking.concurrencies import between_steps

LADDER = concurrency_ladder(8192)
SPLIT = tuple(name for name in KNOBS if name != "concurrency")
peaks = st.lists(st.tuples(st.integers(1, 9000), st.sampled_from([1, 2, 8, 64])), min_size=1, max_size=8)


def searched(peaks):
    peak, unit = np.array(peaks, dtype=float).T

    def score(splits, tried):
        # Grows with every multiple, what lies between does a little less, and beyond a limit nothing is feasible.
        size = unit[splits, None]
        rate = tried // size - 1e-6 * (tried % size)
        return np.where((tried <= peak[splits, None]) & (tried >= size), rate, -np.inf)

    scores = score(np.arange(len(peak)), np.broadcast_to(LADDER, (len(peak), len(LADDER))))
    return between_steps(score, LADDER, scores, unit)


@given(peaks=peaks)
def test_a_limit_is_met_to_the_last_request(peaks):
    for (peak, unit), found in zip(peaks, searched(peaks), strict=True):
        if peak >= unit:
            assert found // unit == min(peak, 8192) // unit


@given(peaks=peaks)
def test_a_split_is_searched_as_if_it_were_alone(peaks):
    alone = np.concatenate([searched([each]) for each in peaks])
    np.testing.assert_array_equal(searched(peaks), alone)
    np.testing.assert_array_equal(searched(peaks[::-1]), alone[::-1])


@given(center=st.floats(2.0, 8000.0))
def test_a_peak_between_steps_is_found(center):
    def score(_, tried):
        return -np.abs(np.log(tried / center))

    found = between_steps(score, LADDER, score(0, LADDER)[None])
    near = np.array([max(np.floor(center), 1.0), np.ceil(center)])
    assert found[0] == near[score(0, near).argmax()]


@pytest.mark.parametrize(
    ("model", "limit"), [("llama-3.1-70b", {"tpot": 0.03}), ("llama-3.1-70b", {"ttft": 0.8}), ("deepseek-v3", {})]
)
def test_no_concurrency_beside_that_of_a_ranked_plan_is_better(model, limit):
    request = {"gpus": 16, "isl": 4000, "osl": 1000, "engine": "trtllm"} | limit
    ranking = pm.rank(model, "hgx-h200", **request)
    for rank in {1, 2, len(ranking)}:
        row = ranking.row(rank)
        step = int(row["dp"])
        for concurrency in (row["concurrency"] - step, row["concurrency"] + 1, row["concurrency"] + step):
            if concurrency < 1:
                continue
            try:
                other = pm.rank(model, "hgx-h200", **request, **{n: row[n] for n in SPLIT}, concurrency=concurrency)
            except pm.PerfmodelError:
                continue
            assert other.row(1)["tokens_per_s_per_gpu"] <= row["tokens_per_s_per_gpu"]


def test_a_rate_that_only_a_concurrency_between_steps_reaches_is_met():
    request = {"gpus": 8, "isl": 4000, "osl": 1000, "engine": "trtllm", "tpot": 0.03, "tp": 8}
    best = pm.rank("llama-3.1-70b", "hgx-h200", **request).row(1)
    assert best["concurrency"] not in LADDER
    assert pm.rank("llama-3.1-70b", "hgx-h200", **request, rate=best["requests_per_s"]).row(1) == best


def test_the_utilisation_of_the_fastest_plan_that_the_cache_holds_is_one():
    found = pm.rank("llama-3.1-8b", "hgx-h100", gpus=1, isl=1000, osl=200, load={"arrivals": "poisson"})
    used = found.estimate["utilisation"][found.estimate.feasible]
    assert used.max() == 1.0
    assert found.row(1)["utilisation"] == 1.0
