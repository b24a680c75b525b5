"""Schedules: prompts before decode steps, in chunks beside them, or layer group by layer group."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import perfmodel as pm
from perfmodel.api import target
from perfmodel.cli.main import main
from perfmodel.costs.scheduling import balanced_wait, chunk_context, decoding_limit, layer_groups, prompt_chunks
from perfmodel.errors import PlanError, ProfileError
from perfmodel.estimate.serving.mixed_steps import pieces_of
from perfmodel.estimate.serving.workload import Workload
from perfmodel.hardware.engine_files import load_engine
from perfmodel.hardware.named_files import find_named

tokens = st.integers(1, 100_000)
chunks = st.integers(1, 8192)
times = st.floats(1e-4, 10.0)
requests = st.integers(1, 2000)


@given(prompt=tokens, chunk=chunks, more=chunks)
def test_larger_chunks_read_weights_and_cache_less_often(prompt, chunk, more):
    few, many = prompt_chunks(prompt, chunk + more), prompt_chunks(prompt, chunk)
    assert 1 <= few <= many
    assert (many - 1) * chunk < prompt <= many * chunk
    # The sum over chunks of what each attends to is what the causal mask leaves, and half a chunk per token.
    assert chunk_context(prompt, many) == pytest.approx(np.mean(np.arange(1, many + 1)) * prompt / many)


@given(prompt=tokens, layers=st.integers(1, 200))
def test_layer_groups_are_pieces_of_at_least_one_layer(prompt, layers):
    assert 1 <= layer_groups(prompt, layers) <= layers
    assert layer_groups(min(prompt, 512), layers) == 1


@given(prompt=tokens, output=st.integers(1, 5000), chunk=chunks)
def test_at_the_limit_prompt_and_output_tokens_balance(prompt, output, chunk):
    n = decoding_limit(prompt, output, chunk)
    assert 0 < n < chunk
    # In the time in which n requests emit all their tokens, n prompts go through what is left of the steps.
    assert n * prompt == pytest.approx(output * (chunk - n), rel=1e-9)


@given(service=times, n=requests, cycle=times, more=times)
def test_a_closed_loop_never_runs_faster_than_its_prompts(service, n, cycle, more):
    wait = balanced_wait(service, n, cycle)
    assert wait >= 0
    assert (n - 1) / (cycle + wait) <= 1 / service * (1 + 1e-6)
    assert balanced_wait(service, n, cycle + more) <= wait * (1 + 1e-9) + 1e-12
    assert balanced_wait(service, 1, cycle) == pytest.approx(0.0, abs=1e-12)


def simulate(requests, pieces, decode, extra, output, seed=3):
    """A closed loop in an engine whose every step holds one piece of the first waiting prompt beside all decodes."""
    random = np.random.default_rng(seed)
    waiting = [(0.0, i, pieces) for i in range(requests)]
    running, now, ends, firsts, starts = {}, 0.0, [], [], []
    done = 0
    while done < 40 * requests:
        took = decode(len(running)) if running else 0.0
        if waiting:
            took += extra
            arrived, i, left = waiting[0]
            waiting[0] = (arrived, i, left - 1)
        now += took
        for i in list(running):
            running[i] -= 1
            if not running[i]:
                del running[i]
                done += 1
                ends.append(now)
                waiting.append((now, i, pieces))
        if waiting and waiting[0][2] == 0:
            arrived, i, _ = waiting.pop(0)
            firsts.append(now - arrived)
            starts.append(now)
            running[i] = max(int(random.normal(output, output / 4)), 2)
    steady = len(firsts) // 2
    return (len(ends) - len(ends) // 2) / (ends[-1] - ends[len(ends) // 2 - 1]), np.mean(firsts[steady:])


@pytest.mark.parametrize(("n", "pieces", "output"), [(8, 8, 400), (24, 8, 400), (64, 8, 256), (128, 16, 256)])
def test_a_simulated_engine_settles_at_the_predicted_rate(n, pieces, output):
    def decode(running):
        return 0.015 + 0.0001 * running

    extra = 0.01
    rate, first = simulate(n, pieces, decode, extra, output)
    # The limit of requests that decode, and the closed form of the wait, with the same step times.
    decoding = min(n, output / pieces)
    step = decode(decoding)
    tpot = step + (decoding - 1) * pieces * extra / output
    service = pieces * (step + extra)
    started = service + balanced_wait(service, n, service + output * tpot)
    assert n / (started + output * tpot) == pytest.approx(rate, rel=0.12)
    if n > 2 * decoding:
        assert started == pytest.approx(first, rel=0.15)


MODEL, GRID = "llama-3.1-70b", pm.plans(tp=8, concurrency=[1, 8, 16])
LENGTHS = {"isl": 8192, "osl": 256}


def predict(schedule=None, chunk=None, **more):
    return pm.predict(MODEL, target("hgx-h100", schedule=schedule, chunk=chunk), GRID, **(LENGTHS | more))


def test_chunks_and_groups_shorten_stalls_and_lengthen_prompts():
    alone, chunked, layered = predict(), predict("chunked", 512), predict("layered")
    for mixed in (chunked, layered):
        assert np.all(mixed["itl_max_s"] < 0.2 * alone["itl_max_s"])
        assert np.all(mixed["prompt_s"] > alone["prompt_s"])
        assert np.all(np.isfinite(mixed["ttft_s"]))
    # Larger chunks stall for longer and repeat less.
    large = predict("chunked", 2048)
    assert np.all(large["itl_max_s"] > chunked["itl_max_s"])


def test_one_chunk_of_the_whole_prompt_is_the_prompt_riding_along():
    whole = predict("chunked", 16384)
    # Alone, the prompt takes its time and one step; the weights of that step are read for both.
    alone = predict()
    assert np.all(whole["prompt_s"] <= alone["prompt_s"] + alone["decode_s"] * 1.2)
    assert np.all(whole["prompt_s"] >= alone["prompt_s"] * 0.9)


def test_short_prompts_fill_a_step_together():
    grid = pm.plans(tp=8, concurrency=[1, 64, 256, 1024])
    alone, packed = (
        pm.predict(MODEL, target("hgx-h100", schedule=schedule, chunk=2048), grid, isl=128, osl=128)
        for schedule in (None, "chunked")
    )
    # Sixteen prompts in one step read its weights, and launch its kernels, once, as they do in a step of their own.
    assert np.all(packed["tokens_per_s"] > 0.75 * alone["tokens_per_s"])
    # No token takes longer, on average, than the longest of them.
    assert np.all(packed["tpot_s"] <= packed["itl_max_s"] * (1 + 1e-9))


def test_launches_ahead_of_the_device_delay_the_prompt_and_nobody_else():
    on = target("hgx-h100", schedule="chunked", chunk=2048)
    layer_s = 5e-3

    def found(launch_s, ahead):
        engine = replace(on.engine, prefill_layer_s=launch_s, launches_ahead=ahead)
        return pm.predict(MODEL, replace(on, engine=engine), GRID, **LENGTHS)

    none, ahead, after = found(0.0, True), found(layer_s, True), found(layer_s, False)
    launches = pm.load_model(MODEL).layers * layer_s
    chunks = np.ceil(8192 / (2048 - 16))
    assert np.all(ahead["prompt_s"] > none["prompt_s"])
    assert np.all(ahead["itl_max_s"] >= launches * LENGTHS["isl"] / 2048 / chunks)
    assert np.all(after["prompt_s"] > ahead["prompt_s"])
    assert ahead["tpot_s"] == pytest.approx(none["tpot_s"], rel=1e-9)
    assert np.all(after["tpot_s"][1:] > none["tpot_s"][1:])


@given(prompt=tokens, output=st.integers(1, 5000), running=requests, chunk=st.integers(2, 16384))
def test_a_step_holds_no_more_tokens_than_its_chunk(prompt, output, running, chunk):
    on = target("hgx-h100", schedule="chunked", chunk=chunk)
    pieces = pieces_of(pm.load_model(MODEL), on, Workload(isl=prompt, osl=output), running)
    held = float(pieces.dense.batch * pieces.dense.tokens)
    assert held <= max(chunk, running + 1) * (1 + 1e-9)
    assert held == pytest.approx(running + float(pieces.shared * pieces.tokens), rel=1e-9)
    # What the steps have room for is what all of them hold where they are full.
    room = max(chunk - running, 1)
    assert float(pieces.together * prompt) == pytest.approx(float(pieces.steps) * room, rel=1e-9)
    assert 1 <= pieces.shared <= max(pieces.together, 1) * (1 + 1e-9)


def test_experts_are_loaded_for_every_chunk_and_once_by_layers():
    model, grid = "qwen3-30b-a3b", pm.plans(tp=2, ep=2, concurrency=16)

    def prompt(schedule, chunk=None):
        return pm.predict(model, target("hgx-h100", schedule=schedule, chunk=chunk), grid, **LENGTHS)["tokens_per_s"][0]

    assert prompt("layered") > prompt("chunked", 1024) > prompt("chunked", 256)


def test_arrivals_at_random_work_with_every_schedule():
    for schedule in ("chunked", "layered"):
        e = predict(schedule, load={"arrivals": "poisson"})
        assert np.isfinite(e["ttft_s"][1])
        assert e["ttft_p99_s"][1] > e["ttft_s"][1] >= e["prompt_s"][1]
        ranking = pm.rank(
            MODEL, target("hgx-h100", schedule=schedule), gpus=8, ttft="5s", load={"arrivals": "poisson"}, **LENGTHS
        )
        assert np.isfinite(ranking.row(1)["ttft_s"])


def test_schedules_that_are_none_are_refused(tmp_path):
    with pytest.raises(PlanError, match="unknown schedule 'chunk'"):
        target("hgx-h100", schedule="chunk")
    with pytest.raises(PlanError, match="chunk"):
        target("hgx-h100", schedule="chunked", chunk=0)
    text = (
        find_named("engine", "neutral", None).read_text(encoding="utf-8")
        + '\n[schedule]\nvalue = "chunk"\nsource = "mine"\n'
    )
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(ProfileError, match="schedule"):
        load_engine(str(file))
    file.write_text(text.replace('"chunk"', '"layered"'))
    assert load_engine(str(file)).schedule == "layered"


@pytest.mark.parametrize("command", ["rank", "explain"])
def test_commands_take_a_schedule(capsys, command):
    size = ["--gpus", "8"] if command == "rank" else ["--tp", "8", "--concurrency", "8"]
    arguments = [command, "serving", "--model", MODEL, "--system", "hgx-h100", *size, "--isl", "8k", "--osl", "256"]
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--schedule", "chunked", "--chunk", "512"])
    out = capsys.readouterr().out
    assert stop.value.code == 0
    if command == "explain":
        assert "over 16 steps shared with running requests" in out
        assert "balanced_wait" in out
