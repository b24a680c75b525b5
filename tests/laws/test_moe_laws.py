"""Laws of the fused-experts form: broadcast, bound, monotone in work and antitone in rates."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.costs.expert_load import expert_load
from perfmodel.costs.kernel_bounds import experts_bound
from perfmodel.costs.moe import REMOTE, experts_grouped
from perfmodel.costs.moe_tiles import MENUS
from perfmodel.costs.registry import get_formula

FORM = get_formula("experts_grouped")
COEFFICIENTS = st.fixed_dictionaries({c.name: st.floats(c.low, c.high) for c in FORM.coefficients})
ATTRIBUTES = st.fixed_dictionaries(
    {
        "tiles": st.sampled_from(list(MENUS)),
        "remote_rows": st.sampled_from(REMOTE),
        "unpacked": st.booleans(),
        "cached_passes": st.booleans(),
    }
)
HARDWARE = st.fixed_dictionaries(
    {
        "peak_flops": st.sampled_from([312e12, 989e12, 9e15]),
        "memory_bandwidth": st.sampled_from([0.864e12, 3.35e12, 8e12]),
        "cores": st.sampled_from([108, 132, 160]),
        "weight_bytes": st.sampled_from([2.0, 1.0, 0.5625]),
        "activation_bytes": st.sampled_from([2.0, 1.0]),
        "cache_bytes": st.sampled_from([0.0, 50e6, 126e6]),
    }
)
EXPERTS = st.sampled_from([(8, 2), (32, 4), (128, 8), (160, 8), (384, 6), (512, 22), (896, 16), (16, 1)])
SKEW = st.one_of(st.just(0.0), st.sampled_from([1.0, 1.01, 1.2, 2.0]), st.floats(0.3, 2.5))


@st.composite
def layers(draw):
    """Sizes of one valid layer."""
    experts, topk = draw(EXPERTS)
    return {
        "tokens": draw(st.integers(1, 2**20)),
        "hidden": draw(st.sampled_from([1024, 2880, 4096, 7168])),
        "intermediate": draw(st.sampled_from([512, 768, 2048, 2880, 16384])),
        "experts": experts,
        "topk": topk,
        "expert_ranks": draw(st.sampled_from([r for r in (1, 2, 4, 8, 16, 32) if experts % r == 0])),
        "tensor_ranks": draw(st.sampled_from([1, 2, 8])),
        "skew": draw(SKEW),
        "random": draw(st.booleans()),
        "gated": draw(st.booleans()),
        "warm": draw(st.booleans()),
    }


@given(layers(), HARDWARE, ATTRIBUTES, COEFFICIENTS)
def test_never_below_the_bound_and_finite(layer, hardware, attributes, coefficients):
    time = experts_grouped(**layer, **hardware, **attributes, **coefficients)
    wanted = ("peak_flops", "memory_bandwidth", "weight_bytes", "cache_bytes")
    bound = experts_bound(**layer, **{name: hardware[name] for name in wanted})
    assert np.isfinite(time)
    assert time >= bound * (1 - 1e-9)


@given(st.lists(layers(), min_size=2, max_size=5), HARDWARE, ATTRIBUTES)
def test_broadcast(some, hardware, attributes):
    columns = {name: np.array([layer[name] for layer in some]) for name in some[0]}
    together = experts_grouped(**columns, **hardware, **attributes)
    one_by_one = [experts_grouped(**layer, **hardware, **attributes) for layer in some]
    np.testing.assert_allclose(together, one_by_one, rtol=1e-12)


@given(layers(), HARDWARE, ATTRIBUTES)
def test_chunks_do_not_show(layer, hardware, attributes):
    tokens = np.tile([layer["tokens"], 1, 64], 3000)
    times = experts_grouped(**(layer | {"tokens": tokens}), **hardware, **attributes)
    np.testing.assert_allclose(times, np.tile(times[:3], 3000), rtol=1e-12)


@given(layers(), HARDWARE, ATTRIBUTES, COEFFICIENTS, st.sampled_from(["peak_flops", "memory_bandwidth"]))
def test_faster_hardware_is_never_slower(layer, hardware, attributes, coefficients, rate):
    slow = experts_grouped(**layer, **hardware, **attributes, **coefficients)
    fast = experts_grouped(**layer, **(hardware | {rate: 2 * hardware[rate]}), **attributes, **coefficients)
    assert fast <= slow * (1 + 1e-9)


@given(layers(), HARDWARE, ATTRIBUTES, COEFFICIENTS, st.sampled_from(["hidden", "intermediate"]))
def test_larger_experts_are_never_faster(layer, hardware, attributes, coefficients, side):
    # With a warm cache too: more weights may only miss more.
    small = experts_grouped(**layer, **hardware, **attributes, **coefficients)
    large = experts_grouped(**(layer | {side: 2 * layer[side]}), **hardware, **attributes, **coefficients)
    assert large >= small * (1 - 1e-9)


@given(layers(), HARDWARE, ATTRIBUTES)
def test_more_tokens_are_not_faster_but_for_steps(layer, hardware, attributes):
    # Twice the tokens may use a better tile or pass the power law's change of ends: never less than 0.5 of the time.
    few = experts_grouped(**layer, **hardware, **attributes)
    many = experts_grouped(**(layer | {"tokens": 2 * layer["tokens"]}), **hardware, **attributes)
    free = experts_grouped(**layer, **hardware, **(attributes | {"tiles": "grouped"}))
    more = experts_grouped(
        **(layer | {"tokens": 2 * layer["tokens"]}), **hardware, **(attributes | {"tiles": "grouped"})
    )
    assert many >= 0.5 * few
    if layer["skew"] == 0.0 or layer["random"]:
        assert more >= free * (1 - 1e-6)


@given(layers())
def test_load_is_consistent(layer):
    arguments = [layer[n] for n in ("tokens", "experts", "topk", "expert_ranks", "skew")]
    load = expert_load(*arguments, random=layer["random"])
    tokens, experts, topk, ranks, _ = arguments
    assert tokens * topk / ranks * (1 - 1e-9) <= load.rows <= tokens * topk * (1 + 1e-9)
    assert min(1.0, load.rows) * (1 - 1e-9) <= load.active <= experts / ranks * (1 + 1e-9)
    assert 0 < load.tokens <= tokens * (1 + 1e-9)
    assert load.active <= load.rows * (1 + 1e-9)
    assert load.tiles(16) >= load.tiles(64) * (1 - 1e-9)
    assert np.all(load.group_experts >= 0)
