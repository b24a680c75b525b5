"""Steps that overlap with themselves: halves of the tokens, nano-batches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import perfmodel as pm
from perfmodel.api import target
from perfmodel.cli.main import main
from perfmodel.costs.splitting import (
    NETWORK_EXPONENT,
    TRAFFIC_EXPONENT,
    nano_batch_time,
    shared_performance,
    token_split_time,
)
from perfmodel.errors import PlanError
from perfmodel.estimate.split_steps import half_of
from perfmodel.layers.base import Step

times = st.floats(0.0, 10.0)
layers = st.integers(1, 200)
ON = {split: target("hgx-h100", split=split) for split in ("none", "tokens", "nano")}


@given(device=times, network=times, traffic=times, count=layers)
def test_an_overlap_lies_between_the_longest_part_and_the_sum(device, network, traffic, count):
    two = token_split_time(device, network, count)
    assert max(device, network) <= two <= (device + network) * (1 + 1e-12)
    three = nano_batch_time(device, traffic, network, count)
    assert max(device, network, traffic) <= three <= (device + network + traffic) * (1 + 1e-12)
    # Kernels that share a device slow each other down, collectives of split tokens have cores of their own.
    assert nano_batch_time(device, 0.0, network, count) >= two * (1 - 1e-12)


@given(arithmetic=times, traffic=times, network=times, more=times)
def test_shares_of_nano_batches_add_up_and_no_work_is_free(arithmetic, traffic, network, more):
    t = float(nano_batch_time(arithmetic, traffic, network, np.inf))
    if t > 0:
        shares = (traffic / t) ** (1 / TRAFFIC_EXPONENT) + (network / t) ** (1 / NETWORK_EXPONENT) + arithmetic / t
        assert shares == pytest.approx(1.0, abs=1e-9)
    for longer in ((arithmetic + more, traffic, network), (arithmetic, traffic + more, network)):
        assert float(nano_batch_time(*longer, np.inf)) >= t * (1 - 1e-9)
    sizes = np.array([arithmetic, more]), np.array([traffic, network]), np.array([network, traffic])
    alone = [float(nano_batch_time(*each, 80)) for each in zip(*sizes, strict=True)]
    assert nano_batch_time(*sizes, 80) == pytest.approx(alone)


# NanoFlow (arXiv:2408.12757), table 3: performance beside a matrix product with 0.2 and with 0.8 of an A100.
@pytest.mark.parametrize(("exponent", "published"), [(TRAFFIC_EXPONENT, (0.3, 0.85)), (NETWORK_EXPONENT, (0.5, 0.9))])
def test_kernels_that_share_a_device_perform_as_measured(exponent, published):
    for share, performance in zip((0.2, 0.8), published, strict=True):
        assert float(shared_performance(share, exponent=exponent)) == pytest.approx(performance, abs=0.01)


@given(step=st.builds(Step, st.integers(1, 999), st.integers(1, 9999), st.integers(1, 99999), decode=st.booleans()))
def test_two_halves_hold_at_least_the_whole(step):
    half = half_of(step)
    assert 2 * half.batch * half.tokens >= step.batch * step.tokens
    assert half.batch <= step.batch
    assert half.tokens <= step.tokens


def predict(split, grid, **more):
    asked = {"isl": 4096, "osl": 256} | more
    return pm.predict("llama-3.1-70b", ON[split], grid, **asked)


def test_a_split_is_used_only_where_it_is_faster_and_parts_add_up():
    grid = pm.plans(tp=[1, 2, 4, 8], concurrency=[[1], [64], [512]])
    whole = predict("none", grid)
    for split in ("tokens", "nano"):
        e = predict(split, grid)
        for phase in ("decode", "prefill"):
            assert np.all(e[f"{phase}_s"] <= whole[f"{phase}_s"] * (1 + 1e-12))
            assert np.all(e[f"{phase}_s"] >= e[f"{phase}_lower_s"] * (1 - 1e-12))
            parts = [e[f"{phase}_{part}_s"] for part in ("compute", "memory", "network", "latency", "host")]
            np.testing.assert_allclose(sum(parts), e[f"{phase}_s"], rtol=1e-9)
            assert all(np.all(part >= -1e-12) for part in parts)
    # Decoding is bound by weights, which halves read twice; prompts keep arithmetic and links busy at once.
    assert np.all(
        predict("nano", grid)["prefill_s"].reshape(3, 4)[:, 2:] < 0.9 * whole["prefill_s"].reshape(3, 4)[:, 2:]
    )


def test_without_collectives_there_is_nothing_for_tokens_to_hide():
    grid = pm.plans(tp=1, concurrency=[1, 64])
    # Halves run less efficiently, so the step stays whole.
    np.testing.assert_allclose(predict("tokens", grid)["prefill_s"], predict("none", grid)["prefill_s"])


def test_splits_work_with_every_schedule_and_unknown_ones_are_refused():
    for schedule in ("chunked", "layered"):
        on = target("hgx-h100", schedule=schedule, split="tokens", chunk=2048)
        e = pm.predict("llama-3.1-70b", on, pm.plans(tp=8, concurrency=16), isl=4096, osl=512)
        assert np.isfinite(e["ttft_s"][0])
    with pytest.raises(PlanError, match="unknown split 'halves'"):
        target("hgx-h100", split="halves")


def test_commands_take_a_split(capsys):
    arguments = ["rank", "serving", "--model", "llama-3.1-70b", "--system", "hgx-h100", "--gpus", "8", "--tp", "8"]
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--isl", "4k", "--osl", "256", "--split", "tokens"])
    assert stop.value.code == 0
    assert "Best: 1 replica of TP8" in capsys.readouterr().out
