"""Routing distributions against brute-force sampling with a fixed seed."""

import numpy as np
import pytest

from perfmodel.costs.expert_load import expert_load
from perfmodel.costs.routing import imbalance_factor, power_law_tokens
from perfmodel.costs.work import active_experts


def sample_random(rng, tokens, experts, topk):
    """Every token picks topk distinct experts, uniformly."""
    picks = np.argsort(rng.random((tokens, experts)), axis=1)[:, :topk]
    return np.bincount(picks.ravel(), minlength=experts)


def sample_power_law(rng, tokens, experts, topk, skew):
    """Loads drawn from a truncated power law, scaled to tokens * topk rows, none above tokens."""
    low, high = (1.0, 0.8 * tokens) if tokens * topk > experts else (0.01, 2.0)
    x = 1.0 - skew
    draw = ((high**x - low**x) * rng.random(experts) + low**x) ** (1.0 / x)
    load = np.minimum(np.rint(draw / draw.sum() * tokens * topk).astype(int), tokens)
    while load.sum() != tokens * topk:
        if load.sum() < tokens * topk:
            load[load.argmin()] += 1
        else:
            load[load.argmax()] -= 1
    return load


def busiest(load, ranks):
    by_rank = load.reshape(ranks, -1)
    return by_rank[by_rank.sum(axis=1).argmax()]


@pytest.mark.parametrize(("tokens", "experts", "topk"), [(1, 128, 8), (16, 128, 8), (64, 256, 8), (200, 32, 4)])
def test_active_experts_matches_sampling(tokens, experts, topk):
    rng = np.random.default_rng(1)
    sampled = np.mean([(sample_random(rng, tokens, experts, topk) > 0).sum() for _ in range(200)])
    assert active_experts(tokens, experts, topk) == pytest.approx(sampled, rel=0.02)


@pytest.mark.parametrize(("tokens", "experts", "topk", "ranks"), [(64, 256, 8, 1), (512, 128, 8, 1), (512, 128, 8, 8)])
def test_random_load_matches_sampling(tokens, experts, topk, ranks):
    rng = np.random.default_rng(2)
    draws = [busiest(sample_random(rng, tokens, experts, topk), ranks) for _ in range(100)]
    load = expert_load(tokens, experts, topk, ranks, random=True)
    assert load.rows == pytest.approx(np.mean([d.sum() for d in draws]), rel=0.05)
    assert load.active == pytest.approx(np.mean([(d > 0).sum() for d in draws]), rel=0.04)
    assert load.tiles(16) == pytest.approx(np.mean([np.ceil(d / 16).sum() for d in draws]), rel=0.12)


@pytest.mark.parametrize("skew", [1.01, 1.2])
@pytest.mark.parametrize(
    ("tokens", "experts", "topk", "ranks"),
    [(4, 256, 8, 1), (64, 256, 8, 1), (1024, 128, 8, 1), (64, 256, 8, 8), (1024, 128, 8, 8), (4096, 256, 8, 16)],
)
def test_power_law_load_matches_sampling(tokens, experts, topk, ranks, skew):
    rng = np.random.default_rng(3)
    draws = [busiest(sample_power_law(rng, tokens, experts, topk, skew), ranks) for _ in range(100)]
    load = expert_load(tokens, experts, topk, ranks, skew)
    assert load.rows == pytest.approx(np.mean([d.sum() for d in draws]), rel=0.12)
    assert load.active == pytest.approx(np.mean([(d > 0).sum() for d in draws]), rel=0.12)
    assert load.tiles(64) == pytest.approx(np.mean([np.ceil(d / 64).sum() for d in draws]), rel=0.15)


def test_balanced_load_is_exact():
    load = expert_load([1, 4, 64, 4096], 128, 8)
    assert load.rows.tolist() == [8, 32, 512, 32768]
    assert load.active.tolist() == [8, 32, 128, 128]
    assert load.tiles(64).tolist() == [8, 32, 128, 512]
    assert load.tokens.tolist() == [1, 4, 64, 4096]


def test_balanced_load_over_ranks():
    load = expert_load(64, 256, 8, 32)
    assert (load.rows, load.active, load.tokens) == (16, 8, 16)
    assert load.tiles(16) == 8


def test_quantiles_average_to_the_mean():
    u = (np.arange(20000) + 0.5) / 20000
    assert power_law_tokens(u, 4096, 256, 2, 1.1).mean() == pytest.approx(4096 * 2 / 256, rel=2e-3)


def test_no_expert_has_more_than_every_token():
    load = expert_load([8.0, 1024.0], 8, 2, 1, 1.2)
    assert np.all(load.group_rows <= np.array([8.0, 1024.0]) + 1e-9)


def test_imbalance_of_one_rank_is_one():
    assert imbalance_factor(4096, 256, 8, 1, 1.2) == pytest.approx(1.0, abs=1e-9)
    assert imbalance_factor(4096, 256, 8, 16, 0.0) == 1.0
