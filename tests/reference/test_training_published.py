"""Training formulas against the numbers that their own papers print."""

import dataclasses

import numpy as np
import pytest

from perfmodel.api_training import train, training_target
from perfmodel.costs.data_parallel import zero_volume
from perfmodel.costs.reliability import checkpoint_interval, goodput, job_mtbf
from perfmodel.costs.training import gpt_parameters, gpt_step_flops, layer_activation_bytes, utilisation
from perfmodel.costs.training_schedules import SCHEDULES, microbatches_in_flight, schedule_bubble
from perfmodel.estimate.training.flops import step_flops
from perfmodel.estimate.training.model_blocks import block_work
from perfmodel.estimate.training.network import Network
from perfmodel.estimate.training.shape import micro_batch
from perfmodel.layers.training_recipe import get_recipe
from perfmodel.models.inline import inline_model
from perfmodel.parallel.training_grid import training_plans
from perfmodel.parallel.training_groups import training_group

# Narayanan et al. 2021 (arXiv:2104.04473), table 1: billions of parameters, width, layers, heads, GPUs, batch, and the
# printed PFLOP/s of the whole job and TFLOP/s per GPU. Sequence 2048, vocabulary 51200.
TABLE_1 = (
    (1.7, 2304, 24, 24, 32, 512, 4.4, 137),
    (3.6, 3072, 30, 32, 64, 512, 8.8, 138),
    (7.5, 4096, 36, 32, 128, 512, 18.2, 142),
    (18.4, 6144, 40, 48, 256, 1024, 34.6, 135),
    (39.1, 8192, 48, 64, 512, 1536, 70.8, 138),
    (76.1, 10240, 60, 80, 1024, 1792, 143.8, 140),
    (145.6, 12288, 80, 96, 1536, 2304, 227.1, 148),
    (310.1, 16384, 96, 128, 1920, 2160, 297.4, 155),
    (529.6, 20480, 105, 128, 2520, 2520, 410.2, 163),
    (1008.0, 25600, 128, 160, 3072, 3072, 502.0, 163),
)
# Korthikanti et al. 2022 (arXiv:2205.05198), table 5: width, layers, heads, GPUs, batch, step of full recomputation and
# of sequence parallelism with selective recomputation [s], MFU and HFU of the latter [%].
TABLE_5 = (
    (6144, 48, 64, 8, 4, 1.42, 1.10, 41.5, 43.7),
    (12288, 96, 96, 64, 64, 18.13, 13.75, 51.4, 52.8),
    (20480, 105, 128, 280, 280, 49.05, 37.83, 56.0, 57.0),
    (25600, 128, 160, 512, 512, 94.42, 71.49, 56.3, 57.0),
)
V, S = 51200, 2048


def gpt(hidden, layers, heads):
    return inline_model(
        {"hidden": hidden, "layers": layers, "heads": heads, "ffn": 4 * hidden, "vocab": V, "positions": S}
    )


@pytest.mark.parametrize("row", TABLE_1)
def test_megatron_parameter_counts(row):
    billions, hidden, layers, heads = row[:4]
    assert gpt_parameters(layers, hidden, V, S) / 1e9 == pytest.approx(billions, abs=0.06 if billions < 1000 else 0.6)
    # The paper leaves the two vectors of the final norm out.
    assert gpt(hidden, layers, heads).parameters() == pytest.approx(gpt_parameters(layers, hidden, V, S) + 2 * hidden)


@pytest.mark.parametrize("row", TABLE_1)
def test_megatron_flops_are_those_of_the_model(row):
    _, hidden, layers, _, _, batch, _, _ = row
    own, done = step_flops(gpt(hidden, layers, 1), S, batch, 2.0)
    # Biases and norms count as multiplied weights here, and not in the paper.
    assert done == pytest.approx(gpt_step_flops(batch, S, layers, hidden, V, recompute="full"), rel=2e-3)
    assert own == pytest.approx(gpt_step_flops(batch, S, layers, hidden, V), rel=2e-3)


@pytest.mark.parametrize(
    ("hidden", "layers", "tokens", "gpus", "teraflops", "days"),
    [(12288, 96, 300e9, 1024, 140, 34), (25600, 128, 450e9, 3072, 163, 84)],
)
def test_megatron_training_days(hidden, layers, tokens, gpus, teraflops, days):
    # Section 5.1: 34 days for GPT-3 and 300 G tokens on 1024 GPUs, 84 days for 1 T parameters and 450 G tokens.
    flops = gpt_step_flops(1, S, layers, hidden, V, recompute="full") * tokens / S
    assert flops / (gpus * teraflops * 1e12) / 86400 == pytest.approx(days, rel=0.04)


@pytest.mark.parametrize("row", TABLE_1)
def test_megatron_steps_fit_to_a_tenth(row):
    # The step follows from the printed TFLOP/s per GPU; one constant of the stack was fitted to these and other runs.
    _, hidden, layers, heads, gpus, batch, _, teraflops = row
    step = gpt_step_flops(batch, S, layers, hidden, V, recompute="full") / (gpus * teraflops * 1e12)
    tp, pp, vp, micro = {
        2304: (1, 1, 1, 16),
        3072: (2, 1, 1, 16),
        4096: (4, 1, 1, 16),
        6144: (8, 1, 1, 8),
        8192: (8, 2, 1, 4),
        10240: (8, 4, 3, 2),
        12288: (8, 8, 2, 2),
        16384: (8, 16, 2, 1),
        20480: (8, 35, 3, 1),
        25600: (8, 64, 1, 1),
    }[hidden]
    plan = training_plans(tp=tp, pp=pp, vp=vp, dp=gpus // (tp * pp), micro_batch=micro, recompute="full")
    target = training_target("hgx-a100", "megatron-2021")
    found = train(gpt(hidden, layers, heads), target, plan, seq=S, global_batch=batch, precision="fp16")
    assert found["step_s"][0] == pytest.approx(step, rel=0.105)


def test_52_percent_of_peak_counts_the_recomputation():
    flops = gpt_step_flops(3072, S, 128, 25600, V, recompute="full")
    step = flops / (3072 * 163e12)
    assert utilisation(flops, step, gpus=3072, peak_flops=312e12) == pytest.approx(0.522, abs=0.001)
    mfu = utilisation(gpt_step_flops(3072, S, 128, 25600, V), step, gpus=3072, peak_flops=312e12)
    assert mfu == pytest.approx(0.393, abs=0.0015)


@pytest.mark.parametrize("row", TABLE_5)
def test_korthikanti_utilisations_follow_from_its_step_times(row):
    hidden, layers, _, gpus, batch, _, step, mfu, hfu = row
    own = gpt_step_flops(batch, S, layers, hidden, V)
    done = gpt_step_flops(batch, S, layers, hidden, V, recompute="selective")
    assert 100 * utilisation(own, step, gpus=gpus, peak_flops=312e12) == pytest.approx(mfu, abs=0.25)
    assert 100 * utilisation(done, step, gpus=gpus, peak_flops=312e12) == pytest.approx(hfu, abs=0.25)


MODES = [
    (False, "none", lambda sbh, t, x: sbh * (10 + 24 / t + 5 * x / t)),
    (True, "none", lambda sbh, t, x: sbh / t * (34 + 5 * x)),
    (False, "selective", lambda sbh, t, x: sbh * (10 + 24 / t)),
    (True, "selective", lambda sbh, t, x: sbh * 34 / t),
    (False, "full", lambda sbh, t, x: sbh * 2),
]


@pytest.mark.parametrize("row", TABLE_5)
@pytest.mark.parametrize(("sequence_parallel", "recompute", "formula"), MODES)
def test_korthikanti_table_2(row, sequence_parallel, recompute, formula):
    hidden, layers, heads, *_ = row
    t, b = 8, 4
    expected = formula(S * b * hidden, t, heads * S / hidden)
    found = layer_activation_bytes(b, S, hidden, heads, t, sequence_parallel=sequence_parallel, recompute=recompute)
    assert found == pytest.approx(expected, rel=1e-14)
    # The estimate sums its activations operator by operator, and comes to exactly the same.
    target = training_target("hgx-a100", "megatron-2021")
    grid = training_plans(tp=t, micro_batch=b, sequence_parallel=float(sequence_parallel))
    micro = micro_batch(grid, float(S), get_recipe("fp16"), target)
    kept = block_work(gpt(hidden, layers, heads).blocks[0][0], micro).kept
    if recompute != "full":
        total = sum(float(np.sum(k.nbytes)) for k in kept if recompute == "none" or not k.core)
        assert total == pytest.approx(expected, rel=1e-12)


def test_korthikanti_figure_7_share_of_full_recomputation():
    # 22B with tensor parallelism alone: full recomputation keeps 7.6 % (the figure's bar reads 7.64).
    share = layer_activation_bytes(4, S, 6144, 64, 8, recompute="full") / layer_activation_bytes(4, S, 6144, 64, 8)
    assert 100 * share == pytest.approx(7.6, abs=0.05)


def test_activations_of_the_first_stage_cover_all_layers():
    # Section 4.2.3: under 1F1B the first stage keeps L layers' worth, interleaved (1 + (p - 1) / (p v)) times that.
    layers, p, v = 96, 8, 3
    assert microbatches_in_flight(p, 0, 64) * layers / p == layers
    factor = microbatches_in_flight(p, 0, 64, v) * layers / p / layers
    assert factor == pytest.approx(1 + (p - 1) / (p * v))


@pytest.mark.parametrize(("p", "m", "v"), [(4, 8, 1), (8, 64, 1), (8, 64, 4), (35, 280, 3)])
def test_bubble_fractions(p, m, v):
    busy = m * 3.0
    idle = schedule_bubble(p, 1.0, 2.0, 1.0, v)
    assert idle / busy == pytest.approx((p - 1) / (m * v))
    # GPipe (arXiv:1811.06965) prints the same idle time over the total.
    plain = schedule_bubble(p, 1.0, 2.0, 1.0, schedule=SCHEDULES.index("gpipe"))
    assert plain / (busy + plain) == pytest.approx((p - 1) / (m + p - 1))


def test_zero_bubble_and_dual_pipe_bubbles():
    # Qi et al. 2023 (arXiv:2401.10241), table 2, whose backward leaves W out; DeepSeek-V3 (arXiv:2412.19437), table 2.
    p, f, b, w = 16.0, 1.0, 1.9, 0.8
    inner = b - w
    assert schedule_bubble(p, f, b, w, schedule=2) == pytest.approx((p - 1) * (f + inner - w))
    assert schedule_bubble(p, f, b, w, schedule=3) == pytest.approx((p - 1) * (f + inner - 2 * w))
    assert schedule_bubble(p, f, b, w, schedule=4) == pytest.approx((p / 2 - 1) * (f + b + b - 3 * w))
    assert microbatches_in_flight(p, 0, 1000, schedule=4) == p + 1
    assert microbatches_in_flight(p, 0, 1000, schedule=3) == 2 * p - 1


@pytest.mark.parametrize("sequence_parallel", [0.0, 1.0])
def test_tensor_parallel_volume(sequence_parallel):
    # Narayanan et al. 2021, section 3.2: 8 b s h (t - 1) / t elements per layer, device and microbatch. Sequence
    # parallelism moves the same bytes, but for the one gather of the kept inputs that Korthikanti et al. overlap.
    t, b, hidden = 8, 2, 4096
    target = training_target("hgx-a100", "megatron-2021")
    grid = training_plans(tp=t, micro_batch=b, sequence_parallel=sequence_parallel)
    micro = micro_batch(grid, float(S), get_recipe("fp16"), target)
    work = block_work(gpt(hidden, 4, 32).blocks[0][0], micro)
    rounds = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1, "all_to_all": 1}
    elements = sum(
        rounds[e.kind] * (t - 1) / t * float(np.sum(e.payload)) / 2 * (e.forward + e.backward) for e in work.exchanges
    )
    again = 2 * b * S * hidden * (t - 1) / t if sequence_parallel else 0.0
    assert elements - again == pytest.approx(8 * b * S * hidden * (t - 1) / t)


def test_zero_volumes(monkeypatch):
    # Rajbhandari et al. 2020 (arXiv:1910.02054), section 7: 2 Psi as plain data parallelism, 3 Psi with stage 3.
    for stage, multiple in ((0, 2), (1, 2), (2, 2), (3, 3)):
        assert zero_volume(1.0, 1e9, stage) == pytest.approx(multiple)
    # A step sends exactly that: on links of one byte per second its exchanges take as long as their bytes are many.
    rounds = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0, "all_to_all": 1.0}

    def sent(self, kind, size, group):
        ranks = training_group(self.grid, group).ranks
        return rounds[kind] * (ranks - 1.0) / ranks * size

    monkeypatch.setattr(Network, "_library", sent)
    model = inline_model({"hidden": 1024, "layers": 4, "heads": 8, "ffn": 4096, "vocab": V, "positions": S})
    target = training_target("hgx-a100", "megatron-2021")
    target = dataclasses.replace(target, stack=dataclasses.replace(target.stack, gradient_bytes=2.0))
    stages = np.array([0, 1, 2, 3])
    plans = training_plans(dp=64, zero=stages, grad_overlap=0)
    estimate = train(model, target, plans, seq=S, global_batch=64, precision="fp16")
    np.testing.assert_allclose(estimate["dp_s"], zero_volume(2.0 * model.parameters(), 64, stages), rtol=1e-9)


def test_zero_memory_of_a_7_5b_model():
    # The same paper, figure 1: 120 GB without, 31.4, 16.6 and 1.9 GB with stages 1 to 3 on 64 devices.
    model = inline_model({"hidden": 4096, "layers": 36, "heads": 32, "ffn": 16384, "vocab": V, "positions": S})
    stack = dataclasses.replace(training_target("hgx-a100", "megatron-2021").stack, gradient_bytes=2.0)
    target = dataclasses.replace(training_target("hgx-a100", "megatron-2021"), stack=stack)
    plans = training_plans(dp=64, zero=[0, 1, 2, 3])
    estimate = train(model, target, plans, seq=S, global_batch=64, precision="fp16")
    states = sum(estimate[f"{name}_bytes"] for name in ("weights", "gradients", "optimizer")) / model.parameters()
    np.testing.assert_allclose(states, np.array([120.0, 31.4, 16.6, 1.9]) / 7.5, rtol=0.015)


@pytest.mark.parametrize("row", TABLE_5)
def test_korthikanti_steps_with_nothing_fitted_to_them(row):
    hidden, layers, heads, _, batch, full, selective, _, _ = row
    pp = {6144: 1, 12288: 8, 20480: 35, 25600: 64}[hidden]
    vp = {8: 3, 35: 3}.get(pp, 1)
    plans = training_plans(
        tp=8, pp=pp, vp=vp, micro_batch=4 if pp == 1 else 1, sequence_parallel=[0, 1], recompute=["full", "selective"]
    )
    target = training_target("hgx-a100", "megatron-2021")
    estimate = train(gpt(hidden, layers, heads), target, plans, seq=S, global_batch=batch, precision="fp16")
    np.testing.assert_allclose(estimate["step_s"], [full, selective], rtol=0.065)


def test_young_and_daly():
    # Daly 2006: with delta = 5 min, the first order of Young and the higher order agree for long M, and part for short.
    assert checkpoint_interval(300.0, 24 * 3600.0) == pytest.approx(np.sqrt(2 * 300.0 * 24 * 3600.0) - 200.0, rel=0.001)
    assert checkpoint_interval(300.0, 150.0) == 150.0
    # Grattafiori et al. 2024 (arXiv:2407.21783), section 3.3.4: 419 interruptions in 54 days, more than 90 % effective.
    mean = job_mtbf(16384)
    assert 54 * 86400 / mean == pytest.approx(419, rel=0.01)
    interval = checkpoint_interval(20.0, mean)
    assert goodput(interval, 20.0, 300.0, mean) > 0.9


def test_checkpoint_bytes():
    # Narayanan et al. 2021, section 5.10: the checkpoint of the model with a trillion parameters has 13.8 terabytes.
    recipe = get_recipe("fp16")
    bytes_each = recipe.weight_bytes + recipe.optimizer_bytes
    assert bytes_each * gpt(25600, 128, 160).parameters() / 1e12 == pytest.approx(13.8, rel=0.03)
