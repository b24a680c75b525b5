"""Laws of collectives: broadcast, monotone in bytes, antitone in bandwidth, never below the bound, one rank free."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import perfmodel.costs.collective_kernels
import perfmodel.costs.expert_exchange  # noqa: F401  (registers its forms)
from perfmodel.costs.all_to_all_tiers import flat_all_to_all, two_level_all_to_all
from perfmodel.costs.collective_bounds import OPERATIONS, collective_bound, collective_traffic
from perfmodel.costs.collective_tiers import (
    hierarchical_all_gather,
    hierarchical_all_reduce,
    hierarchical_reduce_scatter,
)
from perfmodel.costs.collectives import (
    in_switch_all_reduce,
    pairwise_all_to_all,
    ring_all_gather,
    ring_all_reduce,
    ring_reduce_scatter,
    tree_all_reduce,
)
from perfmodel.costs.flat_collectives import flat_ring, flat_tree
from perfmodel.costs.registry import get_formula

RINGS = {
    ring_all_reduce: "all_reduce",
    tree_all_reduce: "all_reduce",
    in_switch_all_reduce: "all_reduce",
    ring_all_gather: "all_gather",
    ring_reduce_scatter: "reduce_scatter",
    pairwise_all_to_all: "all_to_all",
}

nbytes = st.integers(0, 40).flatmap(lambda p: st.floats(2.0**p, 2.0 ** (p + 1))).map(lambda b: min(b, 2.0**40))
ranks = st.sampled_from([1, 2, 3, 4, 6, 8, 16, 64, 72, 1024])
bandwidths = st.floats(1e9, 2e12)
latencies = st.floats(0.0, 1e-4)
more = st.floats(1.0, 1000.0)
SLACK = 1 + 1e-9


@st.composite
def kernels(draw, name):
    """A registered form with coefficients anywhere in their ranges and any attributes."""
    form = get_formula(name)
    chosen = {}
    for c in form.coefficients:
        part = draw(st.floats(0.0, 1.0))
        chosen[c.name] = c.low * (c.high / c.low) ** part if c.low > 0 else c.low + part * (c.high - c.low)
    for attribute, values in form.attributes.items():
        chosen[attribute] = draw(st.sampled_from(values))
    return form.function, chosen


LIBRARY = st.one_of(kernels("nccl_collective"), kernels("custom_all_reduce"))


@pytest.mark.parametrize("form", RINGS)
@given(size=nbytes, n=ranks, bandwidth=bandwidths, latency=latencies, factor=more)
def test_textbook_forms(form, size, n, bandwidth, latency, factor):
    link = {"bandwidth": bandwidth, "latency": latency}
    time = form(size, n, **link)
    assert np.isfinite(time)
    assert form(size, 1, **link) == 0.0
    assert time * SLACK >= collective_bound(size, n, bandwidth=bandwidth, op=RINGS[form])
    assert form(size * factor, n, **link) * SLACK >= time
    assert form(size, n, bandwidth=bandwidth * factor, latency=latency) <= time * SLACK
    scaled = form(size * 2, n, bandwidth=bandwidth * 2, latency=latency)
    assert scaled == pytest.approx(time, rel=1e-9)


@given(size=nbytes, n=ranks, bandwidth=bandwidths, latency=latencies)
def test_all_reduce_is_reduce_scatter_and_all_gather(size, n, bandwidth, latency):
    link = {"bandwidth": bandwidth, "latency": latency}
    halves = ring_reduce_scatter(size, n, **link) + ring_all_gather(size, n, **link)
    assert ring_all_reduce(size, n, **link) == pytest.approx(halves, rel=1e-12)


@given(size=nbytes, n=ranks, bandwidth=bandwidths, op=st.sampled_from(OPERATIONS))
def test_bound_never_exceeds_the_traffic_of_a_ring(size, n, bandwidth, op):
    bound = collective_bound(size, n, bandwidth=bandwidth, op=op)
    assert bound <= collective_traffic(size, n, op=op) / bandwidth * SLACK


@given(kernel=LIBRARY, size=nbytes, n=ranks, bandwidth=bandwidths, factor=more)
def test_library_forms(kernel, size, n, bandwidth, factor):
    form, numbers = kernel
    time = form(size, n, bandwidth=bandwidth, **numbers)
    assert np.isfinite(time)
    assert form(size, 1, bandwidth=bandwidth, **numbers) == 0.0
    assert time * SLACK >= collective_bound(size, n, bandwidth=bandwidth, op=numbers.get("op", "all_reduce"))
    assert form(size * factor, n, bandwidth=bandwidth, **numbers) * SLACK >= time
    assert form(size, n, bandwidth=bandwidth * factor, **numbers) <= time * SLACK


@given(
    kernel=LIBRARY,
    sizes=st.lists(nbytes, min_size=1, max_size=4),
    group=st.lists(ranks, min_size=1, max_size=4),
    bandwidth=bandwidths,
)
def test_library_forms_broadcast(kernel, sizes, group, bandwidth):
    form, numbers = kernel
    grid = form(np.array(sizes)[:, None], np.array(group)[None, :], bandwidth=bandwidth, **numbers)
    alone = [[float(form(s, n, bandwidth=bandwidth, **numbers)) for n in group] for s in sizes]
    assert grid.shape == (len(sizes), len(group))
    np.testing.assert_allclose(grid, alone, rtol=1e-12)


@given(
    kernel=st.one_of(kernels("deepep_normal"), kernels("deepep_low_latency")),
    tokens=st.integers(0, 2**17),
    hidden=st.sampled_from([512, 2048, 7168]),
    topk=st.integers(1, 8),
    local=st.integers(1, 64),
    n=st.sampled_from([1, 2, 4, 8]),
    bandwidth=bandwidths,
    factor=more,
)
def test_expert_exchange(kernel, tokens, hidden, topk, local, n, bandwidth, factor):
    form, numbers = kernel
    experts = max(local * n, topk)
    extra = {"cores": 132} if form.__name__ == "deepep_low_latency" else {}
    sms = [] if extra else [20]

    def time(tokens, n, bandwidth):
        return form(tokens, hidden, topk, experts, n, *sms, bandwidth=bandwidth, **extra, **numbers)

    now = time(tokens, n, bandwidth)
    assert np.isfinite(now)
    assert time(tokens, 1, bandwidth) == 0.0
    assert time(tokens * factor, n, bandwidth) * SLACK >= now
    assert time(tokens, n, bandwidth * factor) <= now * SLACK
    if sms:
        more_sms = form(tokens, hidden, topk, experts, n, 24, bandwidth=bandwidth, **numbers)
        assert more_sms <= now * SLACK
    grid = time(np.array([[tokens], [tokens + 1]]), np.array([1, n]), bandwidth)
    assert grid.shape == (2, 2)
    assert grid[0, 1] == pytest.approx(float(now), rel=1e-12)


@pytest.mark.parametrize(
    "form",
    [
        hierarchical_all_reduce,
        hierarchical_all_gather,
        hierarchical_reduce_scatter,
        flat_ring,
        flat_tree,
        flat_all_to_all,
        two_level_all_to_all,
    ],
)
@given(
    size=nbytes,
    inner=st.integers(1, 8),
    outer=st.integers(1, 64),
    fast=bandwidths,
    slow=bandwidths,
    latency=latencies,
    factor=more,
)
def test_tiers(form, size, inner, outer, fast, slow, latency, factor):
    def time(size, inner, outer, fast, slow):
        return form(size, [inner, outer], bandwidths=[fast, slow], latencies=[latency, latency])

    now = time(size, inner, outer, fast, slow)
    assert np.isfinite(now)
    assert time(size, 1, 1, fast, slow) == 0.0
    assert time(size * factor, inner, outer, fast, slow) * SLACK >= now
    assert time(size, inner, outer, fast * factor, slow) <= now * SLACK
    assert time(size, inner, outer, fast, slow * factor) <= now * SLACK
