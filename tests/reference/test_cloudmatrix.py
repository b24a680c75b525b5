"""CloudMatrix384 and H800 serving DeepSeek-R1, and the training of DeepSeek-V3, against what was published.

Sources: Zuo et al. 2025, arXiv:2506.12708 (tables 1, 3 to 5, 7 to 10, section 5.4); DeepSeek-V3 technical report 2024,
arXiv:2412.19437 (table 1); DeepSeek open-infra-index, day 6. Coefficients come from tables 1 and 8 to 10, from
datasheets and from other machines; none was fitted to a row of this file.
"""

import re

import numpy as np
import pytest

import deepseek_h800 as h800
import supernode as study
from perfmodel.costs.tile_rounds import tile_rounds_gemm
from perfmodel.hardware.kernel_files import load_kernel_table
from study_choices import otherwise
from study_rows import mape
from timeline import WIDTH, timeline

# Ranks, dispatch and combine in microseconds, 128 tokens per rank (table 7).
EXCHANGE = [(8, 116, 118), (16, 131, 132), (32, 133, 146), (64, 141, 150), (128, 152, 150), (256, 152, 149)]

# Requests per NPU, tokens in and out, milliseconds per output token (table 5).
DECODE = [
    (128, 1024, 1024, 46.8),
    (112, 2048, 256, 47.4),
    (96, 4096, 256, 49.4),
    (24, 4096, 256, 24.6),
    (8, 4096, 256, 14.9),
]

# Groups of a grouped INT8 product, rows of each, columns, depth, % of the peak (table 10).
PRODUCTS = [
    (4, 7168, 4096, 4096, 79.4),
    (4, 2048, 7168, 4096, 77.4),
    (4, 7168, 4096, 8192, 82.7),
    (4, 2048, 7168, 8192, 81.1),
    (8, 7168, 4096, 4096, 79.6),
    (8, 2048, 7168, 4096, 77.9),
]


@pytest.fixture(scope="module")
def kernels():
    return load_kernel_table("ascend-910c", "ascend")


def test_the_coefficients_are_those_of_the_microbenchmarks(kernels):
    for kind in ("dispatch", "combine"):
        for mode in ("low_latency", "normal"):
            found = kernels.find(kind, engine="cann", kernel=mode).coefficients
            # Table 1, writes from NPU to NPU: 1.3 and 2.1 us, 137 and 135 GB/s inside a node and between nodes.
            assert (found["near_latency_s"], found["far_latency_s"]) == (1.3e-6, 2.1e-6)
            assert (found["near_bandwidth"], found["far_bandwidth"]) == (137e9, 135e9)
    attention = kernels.find("decode_mla", "bf16", kv_format="bf16", engine="cann").coefficients
    assert attention["compute_efficiency"] == 0.654  # table 8
    assert attention["memory_efficiency"] == pytest.approx(1346 / 1600, abs=1e-3)  # table 9


def test_only_kernels_that_were_published_count_as_measured(kernels):
    measured = {(kernel.operator, kernel.format) for kernel in kernels.measured if kernel.basis == "measured"}
    assert measured == {("gemm", "int8"), ("moe", "int8"), ("decode_mla", "bf16")}
    step = study.decode_step(96, 4096.0)
    assert 0.5 < step.basis["measured"] / step.seconds < 0.8
    assert step.basis["measured"] + step.basis["default"] == pytest.approx(step.seconds)


@pytest.mark.parametrize(("groups", "rows", "columns", "depth", "percent"), PRODUCTS)
def test_the_products_that_were_calibrated_with(kernels, groups, rows, columns, depth, percent):
    found = dict(kernels.find("gemm", "int8", engine="cann").coefficients) | {"launch_s": 0.0}
    rates = {"peak_flops": 752e12, "memory_bandwidth": 1.6e12, "cores": 24}
    t = tile_rounds_gemm(groups * rows, columns, depth, weight_bytes=1, activation_bytes=1, **rates, **found)
    assert 100 * 2 * groups * rows * columns * depth / 752e12 / float(t) == pytest.approx(percent, rel=0.01)


def test_dispatch_and_combine_among_8_to_256_dies():
    rows = study.exchange_rows()
    measured = [each[1] for each in EXCHANGE] + [each[2] for each in EXCHANGE]
    assert [row.published for row in rows] == measured
    assert mape(rows) < 0.15
    assert max(abs(row.error) for row in rows) < 0.20


@pytest.mark.parametrize("domain", [1, 8])
def test_deepep_with_and_without_links_inside_a_node(domain):
    rows = h800.deepep_rows(domain)
    # Table 7 of arXiv:2506.12708 for the first version, DeepEP's docs/legacy.md for the later one: EP8 and EP256.
    ends = {1: (163, 318, 194, 360), 8: (77, 114, 194, 360)}[domain]
    assert (rows[0].published, rows[6].published, rows[5].published, rows[11].published) == ends
    assert mape(rows) < 0.15


@pytest.mark.parametrize(("requests", "isl", "osl", "milliseconds"), DECODE)
def test_time_per_output_token(requests, isl, osl, milliseconds):
    assert study.token_s(requests, isl, osl) * 1e3 == pytest.approx(milliseconds, rel=0.12)


@pytest.mark.parametrize(("spread", "published"), [(0.0, 6688), (None, 5655)])
def test_prefill_with_perfect_and_with_real_balance(spread, published):
    on = study.supernode() if spread is None else study.supernode(prefill_spread=spread)
    assert 16384 / study.prefill_s(on) == pytest.approx(published, rel=0.12)


def test_one_layer_of_a_decode_step_and_the_division_of_its_cores():
    for queries, microseconds in ((1.0, 874), (2.0, 1260)):
        assert float(study.decode_step(96, 4096.0, queries).seconds) / 61 * 1e6 == pytest.approx(microseconds, rel=0.12)
    streams = study.decode_step(96, 4096.0).streams
    # Section 4.2.3: 16 of 24 cores for attention, and about 600 us of each microbatch on either stream.
    assert float(streams.share) * 24 == pytest.approx(16, abs=0.1)
    for seconds in (streams.first_s, streams.second_s):
        assert float(seconds) / 58 * 1e6 == pytest.approx(600, rel=0.12)


def test_the_drawing_shows_the_times_of_either_stream():
    step = study.decode_step(96, 4096.0)
    drawn = timeline(step)
    for label, lines in (("attention", step.streams.first), ("combine", step.streams.second)):
        wanted = "latent attention" if label == "attention" else label
        seconds = next(float(line.time.seconds[0]) for line in lines if line.operator.name == wanted)
        assert f"<title>{label}, {seconds * 1e6:.0f} us</title>" in drawn
    edges = [float(x) + float(w) for x, w in re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', drawn)]
    assert edges
    assert max(edges) <= WIDTH + 0.2


def test_choices_made_with_the_tables_in_view_are_those_that_lie_nearer_to_them():
    published = {"cores": 128 / 46.8e-3, "prefill": 5655, "gating": 5655, "waits": 7839}
    published |= dict.fromkeys(("flashmla", "exchange", "host"), 2325)
    worth = otherwise()
    for name, rate in (published | {"experts": 1543.2}).items():
        now, other = worth.pop(name)
        assert abs(now / rate - 1) < abs(other / rate - 1), name
    assert not worth


def test_gains_of_microbatches_in_prefill_and_of_drafting():
    balanced = {"prefill_spread": 0.0}
    whole, both = (study.prefill_s(study.supernode(**balanced, **more)) for more in ({"prefill_streams": None}, {}))
    assert 0.20 < whole / both - 1 < 0.35  # 23 to 31 %
    gains = [study.token_s(n, 4096, 256, drafted=0) / study.token_s(n, 4096, 256) - 1 for n in (96, 48, 24, 8)]
    assert min(gains) > 0.05  # 6 to 49 %, larger for small batches
    assert max(gains) < 0.50
    assert np.argmax(gains) == 3


def test_what_it_gains_to_find_a_prompt_in_the_pool():
    # Section 5.4.3 and figure 23: throughput and time to the first token, 4,096 tokens, 16,384 per NPU.
    rows = {row.name: row for row in study.reuse_rows()}
    assert [row.published for row in rows.values()] == [1.42, 2.28, 0.66, 0.41]
    for name, bar in zip(rows, (0.05, 0.30, 0.05, 0.20), strict=True):
        assert abs(rows[name].error) < bar, name


def test_stages_of_a_layer_in_prefill_and_their_sum():
    # Figure 21b, without microbatches, read off.
    rows = study.stage_rows()
    assert [row.published for row in rows] == [5.0, 7.5, 4.0, 3.6, 10.6, 14.7, 10.7]
    assert sum(row.predicted for row in rows) == pytest.approx(51.4, rel=0.12)  # "Overall"
    core = next(row for row in rows if row.name == "attention, the core")
    assert core.predicted == pytest.approx(core.published, rel=0.05)


@pytest.mark.parametrize(
    ("name", "published", "bar"),
    [
        ("prefill profile, EP32, 16 Ki tokens", 7839, 0.15),
        ("decode profile, EP128, 128 requests", 2325, 0.15),
        ("training on 2,048", 1543.2, 0.12),
    ],
)
def test_deepseek_on_h800(name, published, bar):
    row = next(row for row in h800.hopper_rows() if row.name == name)
    assert row.published == published
    assert row.predicted == pytest.approx(published, rel=bar)
