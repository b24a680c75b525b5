"""Near-ties of a ranking: which of two plans comes first when the model cannot tell them apart."""

import numpy as np
import numpy.typing as npt

from perfmodel.errors import PlanError

NEAR_TIE = 0.02
"""Plans whose rates differ by less than this share are as good as equal.

Half of what repeated runs of one deployment scatter in TPOT. Pipeline stages come second in such a tie: a prediction
does not hold the bubbles of requests that end at different times, which only a pipeline has.
"""


def plan_at(order: npt.NDArray[np.int64], rank: int) -> int:
    """Position of a ranked plan among all.

    Parameters
    ----------
    order : numpy.ndarray
        Positions, the best first.
    rank : int
        1 for the best.

    Returns
    -------
    int
        Position.

    Raises
    ------
    PlanError
        If there is no such rank.

    Examples
    --------
    >>> plan_at(np.array([7, 3]), 2)
    3
    """
    if not 1 <= rank <= len(order):
        raise PlanError(f"rank must lie between 1 and {len(order)}, the plans of the ranking, not {rank}")
    return int(order[rank - 1])


def fewer_stages_first(
    rate: npt.NDArray[np.float64], stages: npt.NDArray[np.float64], tolerance: float = NEAR_TIE
) -> npt.NDArray[np.int64]:
    """Order plans by rate, and within a near-tie by pipeline stages.

    From the best of what is left downwards, the plan with the fewest stages among those within the tolerance of that
    best comes next, so that no plan comes before one that is better by more than the tolerance.

    Parameters
    ----------
    rate : numpy.ndarray
        What is ranked, larger is better, in descending order.
    stages : numpy.ndarray
        Pipeline stages of each plan.
    tolerance : float, optional
        Share by which rates in a near-tie differ at most [1].

    Returns
    -------
    numpy.ndarray
        Positions in their new order.

    Examples
    --------
    >>> fewer_stages_first(np.array([100.0, 99.0, 97.0]), np.array([2.0, 1.0, 1.0])).tolist()
    [1, 0, 2]
    """
    left = list(range(len(rate)))
    order: list[int] = []
    while left:
        best = rate[left[0]]
        # Within the band the fewest stages, and of those the fastest, which stands first.
        chosen = left[0]
        for i in left:
            if rate[i] < (1.0 - tolerance) * best or stages[chosen] <= 1:
                break
            if stages[i] < stages[chosen]:
                chosen = i
        left.remove(chosen)
        order.append(chosen)
    return np.asarray(order, dtype=np.int64)
