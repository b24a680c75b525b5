"""Laws of Pareto fronts, against the definition."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.ranking.pareto import pareto_front

values = st.lists(st.tuples(*[st.integers(0, 6).map(float)] * 3), min_size=1, max_size=40)


def dominates(a, b):
    return np.all(a <= b) and np.any(a < b)


@given(points=values)
def test_the_front_is_what_nothing_dominates(points):
    table = np.array(points)
    front = pareto_front(*table.T)
    for i in front:
        assert not any(dominates(table[j], table[i]) for j in range(len(table)))
    for i in set(range(len(table))) - set(front.tolist()):
        assert any(dominates(table[j], table[i]) or (np.all(table[j] == table[i]) and j in front) for j in front)


@given(points=values, order=st.randoms(use_true_random=False))
def test_the_front_does_not_depend_on_the_order(points, order):
    shuffled = list(points)
    order.shuffle(shuffled)
    first, second = (np.array(p)[pareto_front(*np.array(p).T)] for p in (points, shuffled))
    np.testing.assert_array_equal(first, second)


@given(points=values)
def test_two_objectives_are_three_of_which_one_is_the_same_for_all(points):
    first, second, _ = np.array(points).T
    same = pareto_front(first, second, np.zeros(len(points)))
    assert pareto_front(first, second).tolist() == same.tolist()


def test_points_that_are_unknown_are_left_out():
    assert pareto_front([np.nan, 1.0], [0.0, 2.0]).tolist() == [1]
    assert pareto_front([np.nan], [0.0]).tolist() == []
