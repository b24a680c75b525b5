"""Laws of separate workers: sizes of pools against brute force, monotone in what there is, blind to names."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfmodel as pm
from perfmodel.api import precision_of
from perfmodel.api_compare import link_of
from perfmodel.costs.pools import matched_workers
from perfmodel.errors import NothingFeasibleError, PlanError
from perfmodel.estimate.serving.disaggregated import predict_disaggregated
from perfmodel.estimate.serving.pools import Link, Pool
from perfmodel.parallel.grid import concurrency_ladder
from perfmodel.ranking.separate import rank_separate
from perfmodel.ranking.separate_pools import SPLIT, worker_splits
from perfmodel.ranking.ties import NEAR_TIE

MODEL = pm.load_model("llama-3.1-8b")
H100, H200, A100 = (pm.target(f"hgx-{name}") for name in ("h100", "h200", "a100"))
CLOSED = pm.Workload(4000.0, 500.0)
RANDOM = pm.Workload(4000.0, 500.0, arrivals="poisson")
FORMATS = precision_of(MODEL, None, None, H100)
LIMITS = pm.Limits(ttft_s=1.0, tpot_s=0.03)
OPEN = np.array([np.inf])

few_gpus = st.integers(2, 40)
loads = st.sampled_from([CLOSED, RANDOM])


def rank(gpus, prefill=H100, decode=H100, limits=LIMITS, workload=CLOSED, **more):
    return rank_separate(MODEL, prefill, decode, gpus, workload, FORMATS, limits, **more)


def most(gpus, prefill=H100, decode=H100, limits=LIMITS, workload=CLOSED, **more):
    """Largest rate of any ranked deployment: near-ties may put another first."""
    try:
        ranking = rank(gpus, prefill, decode, limits, workload, **more)
    except NothingFeasibleError:
        return 0.0
    return float(np.max(ranking.columns["tokens_per_s"]))


def reached(first, second, workers, others, concurrency, limits=LIMITS):
    """Rates within the limits of deployments of given sizes, one concurrency of a decode worker each."""
    pools = [
        Pool(target, grid, np.asarray(count, dtype=float), OPEN)
        for target, grid, count in ((*first, workers), (*second, others))
    ]
    load = np.asarray(concurrency * pools[1].workers)
    e = predict_disaggregated(MODEL, *pools, CLOSED, FORMATS, load)
    good = (e.ttft_s <= limits.ttft_s) & (e.tpot_s <= limits.tpot_s) & (load <= e.capacity_requests)
    return np.where(good, e.requests_per_s, 0.0) * CLOSED.osl


@pytest.mark.parametrize("gpus", [5, 13])
@pytest.mark.parametrize(("prefill", "decode"), [(H100, H100), (H100, A100)], ids=["alike", "unlike"])
@pytest.mark.parametrize("limits", [LIMITS, pm.Limits(ttft_s=0.4, tpot_s=0.03), pm.Limits(tpot_s=0.02)])
def test_no_sizes_of_pools_and_no_concurrency_are_better(gpus, prefill, decode, limits):
    splits = worker_splits(MODEL, H100.engine, gpus - 1, {})
    best = 0.0
    for p in range(splits.size):
        for d in range(splits.size):
            first, second = splits.take([p]), splits.take([d])
            others = np.arange(1.0, (gpus - first.devices[0]) // second.devices[0] + 1)
            if not others.size:
                continue
            # More prefill workers are never worse.
            workers = (gpus - others * second.devices[0]) // first.devices[0]
            every = np.arange(1.0, 1200.0)[:, None]
            best = max(best, reached((prefill, first), (decode, second), workers, others, every, limits).max())
    assert (1.0 - NEAR_TIE) * best <= most(gpus, prefill, decode, limits) <= best * (1 + 1e-9)


@given(gpus=few_gpus, ttft=st.floats(0.4, 3.0), tpot=st.floats(0.01, 0.05))
@settings(max_examples=8)
def test_it_is_never_worse_than_powers_of_two_around_the_balance(gpus, ttft, tpot):
    limits = pm.Limits(ttft_s=ttft, tpot_s=tpot)
    sizes = [2**i for i in range(4) if 2**i < gpus]
    best, ladder = 0.0, concurrency_ladder(1200)[:, None]
    for small in sizes:
        for large in sizes:
            # One prefill worker for each share of the devices, and as many decode workers as there is room for.
            workers = np.arange(1.0, gpus)
            others = np.floor((gpus - workers * small) / large)
            workers, others = workers[others >= 1], others[others >= 1]
            if others.size:
                pair = [(H100, pm.plans(tp=size)) for size in (small, large)]
                best = max(best, reached(*pair, workers, others, ladder, limits).max())
    assert most(gpus, limits=limits) >= (1.0 - NEAR_TIE) * best


@given(gpus=few_gpus, more=st.integers(0, 24), load=loads)
@settings(max_examples=8)
def test_more_devices_never_do_less(gpus, more, load):
    few, many = rank_or_none(gpus, load), rank_or_none(gpus + more, load)
    if few is not None:
        assert many is not None
        assert many.columns["tokens_per_s"].max() >= (1.0 - NEAR_TIE) * few.columns["tokens_per_s"].max()
        for ranking, there in ((few, gpus), (many, gpus + more)):
            used = ranking.columns["gpus"]
            np.testing.assert_array_equal(used + ranking.columns["idle_gpus"], there)
            assert np.all(used <= there)


def rank_or_none(gpus, load):
    try:
        return rank(gpus, workload=load)
    except NothingFeasibleError:
        return None


@given(
    gpus=st.integers(2, 24),
    rates=st.tuples(st.floats(1e8, 1e12), st.floats(1e8, 1e12)),
    layerwise=st.booleans(),
    load=loads,
)
@settings(max_examples=8)
def test_a_faster_link_never_does_less(gpus, rates, layerwise, load):
    slow, fast = (
        most(gpus, workload=load, link=Link("a link", rate, 1e-6, layerwise=layerwise)) for rate in sorted(rates)
    )
    assert fast >= (1.0 - NEAR_TIE) * slow


def test_over_an_infinite_link_nothing_is_seen_of_the_transfer_however_it_is_sent():
    at_once, layerwise = (
        rank(9, link=Link("no link", np.inf, 0.0, layerwise=layerwise)).columns for layerwise in (False, True)
    )
    assert np.all(at_once["transfer_s"] == 0.0)
    for name, values in at_once.items():
        np.testing.assert_array_equal(values, layerwise[name], err_msg=name)


@given(gpus=few_gpus, load=loads)
@settings(max_examples=8)
def test_pools_of_the_same_hardware_are_the_same_under_another_name(gpus, load):
    device = dataclasses.replace(H100.device, id="other")
    other = dataclasses.replace(H100, system=dataclasses.replace(H100.system, id="other", device=device))
    plain = rank_or_none(gpus, load)
    for pools in ((other, H100), (H100, other), (other, other)):
        if plain is None:
            assert most(gpus, *pools, workload=load) == 0.0
            continue
        renamed = rank(gpus, *pools, workload=load)
        assert set(renamed.columns) == set(plain.columns)
        for name, values in plain.columns.items():
            np.testing.assert_array_equal(values, renamed.columns[name], err_msg=name)


@given(gpus=st.integers(2, 24), load=loads, tp=st.sampled_from([1, 2, 4]), pp=st.sampled_from([1, 2]))
@settings(max_examples=6)
def test_a_split_that_is_held_is_never_better_than_all_splits(gpus, load, tp, pp):
    try:
        held = most(gpus, workload=load, chosen={"tp": tp, "pp": pp})
    except PlanError:
        assert tp * pp >= gpus
        return
    assert most(gpus, workload=load) >= (1.0 - NEAR_TIE) * held


@given(gpus=few_gpus, load=loads, price=st.floats(0.5, 10.0))
@settings(max_examples=6)
def test_a_budget_that_pays_for_so_many_devices_is_as_good_as_the_devices(gpus, load, price):
    plain = rank_or_none(gpus, load)
    if plain is None:
        return
    for limits in (
        dataclasses.replace(LIMITS, usd_per_hour=gpus * price),
        dataclasses.replace(LIMITS, power_w=gpus * H100.device.power_w),
    ):
        bought = rank(100, limits=limits, workload=load, prices=(price, price))
        assert bought.columns["tokens_per_s"].max() == pytest.approx(plain.columns["tokens_per_s"].max(), rel=NEAR_TIE)
        assert np.all(bought.columns["usd_per_hour"] <= gpus * price * (1 + 1e-9))
        assert np.all(bought.columns["power_w"] <= gpus * H100.device.power_w)
        np.testing.assert_allclose(
            bought.columns["tokens_per_s_per_gpu"], bought.columns["tokens_per_s"] / bought.columns["gpus"]
        )


@given(budgets=st.tuples(st.floats(5.0, 200.0), st.floats(5.0, 200.0)), load=loads, prices=st.sampled_from([1, 3]))
@settings(max_examples=6)
def test_a_larger_budget_never_buys_less(budgets, load, prices):
    few, many = (
        most(1000, H100, A100, pm.Limits(2.0, 0.05, usd_per_hour=budget), load, prices=(2.0 * prices, 1.0 * prices))
        for budget in sorted(budgets)
    )
    assert many >= (1.0 - NEAR_TIE) * few


@given(gpus=st.integers(3, 24), price=st.floats(0.3, 3.0), load=loads)
@settings(max_examples=6)
def test_the_cheapest_deployment_is_no_dearer_than_the_largest(gpus, price, load):
    prices = (2.0, price)
    rankings = [rank(gpus, H100, A100, pm.Limits(2.0, 0.05), load, prices=prices, by=by) for by in ("cost", "gpu")]
    cheap, large = (ranking.columns["usd_per_million_tokens"].min() for ranking in rankings)
    assert cheap <= large * (1 + NEAR_TIE)


@given(
    budget=st.floats(1.0, 1e6),
    costs=st.tuples(st.floats(0.1, 100.0), st.floats(0.1, 100.0)),
    rates=st.tuples(st.floats(0.01, 100.0), st.floats(0.01, 100.0)),
)
def test_matched_workers_take_all_of_the_budget_and_none_waits(budget, costs, rates):
    cost, feeder_cost = costs
    demand, supply = rates
    workers = matched_workers(budget, cost, feeder_cost, demand, supply)
    feeders = workers * demand / supply
    assert workers * cost + feeders * feeder_cost == pytest.approx(budget)
    assert feeders * supply == pytest.approx(workers * demand)


@pytest.mark.parametrize("model", ["llama-3.1-70b", "qwen3-30b-a3b", "deepseek-v3", "gpt-oss-120b"])
@pytest.mark.parametrize("devices", [7, 48, 383])
def test_workers_are_whole_pieces_of_the_model(model, devices):
    spec = pm.load_model(model)
    grid = worker_splits(spec, H100.engine, devices, {})
    sizes = spec.divisors()
    assert grid.devices.max() <= devices
    assert np.all(sizes["heads"] % grid.tp == 0)
    assert len({tuple(grid.row(i)[name] for name in SPLIT) for i in range(grid.size)}) == grid.size
    if spec.is_moe:
        assert np.all(sizes["experts"] % grid.ep == 0)
        assert np.all(sizes["expert_intermediate"] % grid.moe_tp == 0)
        assert np.all(grid.ep * grid.moe_tp == grid.tp * grid.dp)
    else:
        assert np.all(grid.dp == 1)
    # A worker need not be a power of two: three stages of two devices are six.
    assert {1, 2, 3, 4, 6} <= set(grid.devices.astype(int))


def test_links_without_a_rate_are_refused():
    with pytest.raises(PlanError, match="above zero"):
        link_of(H100.system, "0GB/s")


@pytest.mark.parametrize(
    ("limits", "prices", "says"),
    [
        ({"usd_per_hour": 10.0}, (np.nan, 2.0), "needs the price"),
        ({"usd_per_hour": 1.0}, (2.0, 2.0), "the budget cannot hold"),
        ({"power_w": 1000.0}, (2.0, 2.0), "the budget cannot hold"),
    ],
)
def test_budgets_that_make_no_sense_are_one_sentence(limits, prices, says):
    with pytest.raises((PlanError, NothingFeasibleError), match=says):
        rank(8, limits=pm.Limits(**limits), prices=prices)
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(PlanError, match="must be above zero"):
            pm.Limits(**dict.fromkeys(limits, wrong))
