"""Laws of training on sequences of many lengths: packed, cut into chunks, or each for itself."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.api_training import train, training_target
from perfmodel.costs.mixed_lengths import expected_largest, slowest_replica
from perfmodel.estimate.training.memory import MEMORY_PARTS
from perfmodel.estimate.training.pipeline import STEP_PARTS
from perfmodel.models.inline import inline_model
from perfmodel.models.lengths import Lengths, lengths_of
from perfmodel.parallel.training_grid import training_plans

MODEL = inline_model(
    {"hidden": 2048, "layers": 16, "heads": 16, "kv_heads": 4, "ffn": 5632, "vocab": 32000, "gated": 1.0}
)
H100 = training_target("hgx-h100")
SLACK = 1 + 1e-9
EARLIER = "keys and values of earlier chunks"

grids = st.fixed_dictionaries(
    {
        "tp": st.sampled_from([1, 2]),
        "pp": st.sampled_from([1, 2, 4]),
        "dp": st.sampled_from([1, 2, 4]),
        "cp": st.sampled_from([1, 2]),
        "zero": st.integers(0, 3),
        "recompute": st.sampled_from(["none", "pointwise", "full"]),
        "grad_overlap": st.integers(0, 1),
    }
)
mixes = st.dictionaries(st.sampled_from([512, 1024, 3000, 8192, 32768]), st.integers(1, 900), min_size=2, max_size=4)


def step(grid, lengths, batch=64, seq=131072, **how):
    plan = grid if hasattr(grid, "shape") else training_plans(**grid)
    return train(MODEL, H100, plan, seq=seq, global_batch=batch, lengths=lengths, **how)


def mixed(found):
    return lengths_of(found.items())


@given(grid=grids, seq=st.sampled_from([1024, 8192]), chunked=st.booleans())
def test_sequences_of_one_length_are_plain_training(grid, seq, chunked):
    plain = step(grid, None, seq=seq)
    alone = step(grid, Lengths((float(seq),), (1.0,)), seq=seq, chunk=seq if chunked else 0)
    for name, values in plain.columns.items():
        np.testing.assert_allclose(alone[name], values, rtol=1e-12, err_msg=name)


@given(grid=grids, found=mixes, chunk=st.sampled_from([0, 2048, 16384]))
def test_a_grid_gives_what_its_plans_give_alone_and_parts_sum_up(grid, found, chunk):
    plans = training_plans(**(grid | {"tp": [1, 2], "micro_batch": [[1], [2]]}))
    whole = step(plans, mixed(found), chunk=chunk)
    np.testing.assert_allclose(sum(whole[f"{name}_s"] for name in STEP_PARTS), whole["step_s"], rtol=1e-12)
    np.testing.assert_allclose(sum(whole[f"{n}_bytes"] for n in MEMORY_PARTS), whole["peak_bytes"], rtol=1e-12)
    assert all(np.all(whole[f"{name}_s"] >= 0) for name in STEP_PARTS)
    for i in range(len(whole)):
        alone = step(plans.take([i]), mixed(found), chunk=chunk)
        for name, values in whole.columns.items():
            np.testing.assert_allclose(values[i], alone[name][0], rtol=1e-12, err_msg=name)
    assert not np.any(whole.feasible[2:])  # a sequence, or a chunk, is a microbatch of its own


@given(grid=grids, found=mixes, retained=st.integers(2, 8))
def test_a_chunk_as_long_as_the_longest_packs_and_repeats_nothing(grid, found, retained):
    lengths = mixed(found)
    once = step(grid, lengths, chunk=int(lengths.longest))
    more = step(grid, lengths, chunk=int(lengths.longest), retained=retained)
    for name, values in once.columns.items():
        np.testing.assert_array_equal(more[name], values, err_msg=name)
    assert once.activations(0).get(EARLIER, 0.0) == 0.0
    if grid["recompute"] == "none":
        assert once["hfu"][0] == pytest.approx(once["mfu"][0], rel=1e-12)


@given(grid=grids, chunk=st.sampled_from([2048, 8192]), retained=st.integers(1, 4))
def test_memory_does_not_know_the_longest_sequence_but_for_its_keys_and_values(grid, chunk, retained):
    peaks, stored = [], []
    for longest in (32768, 131072):
        lengths = lengths_of([(1024, 99), (longest, 1)])
        # As many tokens in both, so that as many chunks are on their way.
        found = step(grid, lengths, batch=4096, chunk=chunk, retained=retained)
        stored.append(found.activations(0)[EARLIER])
        peaks.append(found["peak_bytes"][0])
    assert stored[1] == pytest.approx(4 * stored[0])
    assert peaks[1] - stored[1] == pytest.approx(peaks[0] - stored[0], rel=1e-12)


@given(grid=grids, chunk=st.sampled_from([2048, 8192]))
def test_retained_chunks_save_time_and_take_memory(grid, chunk):
    lengths = lengths_of([(1024, 99), (65536, 1)])
    found = [step(grid, lengths, chunk=chunk, retained=k) for k in (1, 4, 16, 64)]
    times, peaks = ([float(e[name][0]) for e in found] for name in ("step_s", "peak_bytes"))
    assert all(later <= earlier * SLACK for earlier, later in pairwise(times))
    assert all(earlier <= later * SLACK for earlier, later in pairwise(peaks))
    assert times[-1] < times[0]
    assert peaks[-1] > peaks[0]


@given(grid=grids)
def test_a_rare_long_sequence_costs_more_than_its_tokens(grid):
    """Each for itself, short sequences wait for the long one wherever there are stages or replicas to wait."""
    lengths = lengths_of([(1024, 63), (65536, 1)])
    found = step(grid, lengths)
    shortest, longest = (step(grid, None, batch=n, seq=seq) for n, seq in ((64, 1024), (64, 65536)))
    assert shortest["step_s"][0] < found["step_s"][0] < longest["step_s"][0]
    assert found["peak_bytes"][0] <= longest["peak_bytes"][0] * SLACK
    if grid["pp"] > 1:
        assert found["bubble_s"][0] > 2 * shortest["bubble_s"][0]


VALUES = st.lists(st.tuples(st.floats(1e-3, 1e3), st.integers(1, 1000)), min_size=1, max_size=5)


@given(found=VALUES, draws=st.integers(1, 4096))
def test_the_largest_drawn_lies_between_the_mean_and_the_largest_of_all(found, draws):
    total = sum(weight for _, weight in found)
    values, shares = [v for v, _ in found], [weight / total for _, weight in found]
    mean = float(np.dot(values, shares))
    largest = float(expected_largest(values, shares, draws))
    assert mean <= largest * SLACK <= max(values) * SLACK**2
    assert float(expected_largest(values, shares, 1)) == pytest.approx(mean)
    assert largest <= float(expected_largest(values, shares, draws + 1)) * SLACK
    assert float(slowest_replica(values, shares, draws, 1)) == pytest.approx(draws * mean)
    assert float(slowest_replica(values, shares, 8 * draws, 8)) >= draws * mean / SLACK


@pytest.mark.parametrize(
    ("values", "shares", "draws", "replicas"),
    [
        ([1, 100], [0.99, 0.01], 64, 8),
        ([1, 2, 4, 8], [0.5, 0.3, 0.15, 0.05], 256, 16),
        ([1, 500], [0.9999, 0.0001], 256, 16),
        ([1, 10, 500], [0.9, 0.09, 0.01], 1024, 16),
        ([1, 10, 100, 500], [0.9, 0.09, 0.009, 0.001], 512, 64),
        ([1, 100], [0.9, 0.1], 256, 16),
    ],
)
def test_the_slowest_replica_is_that_of_drawn_samples(values, shares, draws, replicas):
    rng = np.random.default_rng(7)
    samples = rng.choice(values, p=shares, size=(3000, replicas, draws // replicas))
    found = float(slowest_replica(values, shares, draws, replicas))
    assert found == pytest.approx(samples.sum(axis=2).max(axis=1).mean(), rel=0.15)
    drawn = rng.choice(values, p=shares, size=(20000, draws)).max(axis=1).mean()
    assert float(expected_largest(values, shares, draws)) == pytest.approx(drawn, rel=0.1)
