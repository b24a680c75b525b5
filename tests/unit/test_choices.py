"""Choices among measured deployments, scored on small tables that can be counted by hand."""

import pandas as pd
import pytest

from perfmodel.errors import CalibrationError
from perfmodel.validate.choices import choices


def cases(tpots, tp, concurrency):
    load = {"model": "m", "hardware": "h", "engine": "e", "precision": "p", "isl": 1000, "osl": 101}
    frame = pd.DataFrame({"tp": tp, "concurrency": concurrency, "measured_tpot_s": tpots, "measured_ttft_s": 0.1})
    return frame.assign(**load)


def percent(frame, predicted):
    table = pd.DataFrame({"tpot_s": predicted, "ttft_s": 0.1})
    return {row["question"].split()[0]: (row["cases"], row["percent"]) for row in choices(frame, table)}


def test_pairs_are_right_wrong_or_undecided():
    frame = cases([0.01, 0.02, 0.0201, 0.04], tp=[8, 4, 4, 2], concurrency=[4, 4, 4, 4])
    # Five pairs differ: the two in the middle are within the noise.
    rows = choices(frame, pd.DataFrame({"tpot_s": [1, 2, 3, 4], "ttft_s": 0.1}))
    assert (rows[0]["cases"], rows[0]["percent"]) == (5, 100.0)
    rows = choices(frame, pd.DataFrame({"tpot_s": [2, 1, 3, 4], "ttft_s": 0.1}))
    assert rows[0]["percent"] == 80.0
    rows = choices(frame, pd.DataFrame({"tpot_s": [1, float("nan"), 3, 4], "ttft_s": 0.1}))
    assert rows[0]["percent"] == 80.0  # two pairs without a prediction count half each


def test_picks_break_a_limit_or_lose_rate():
    ladder = [0.01 * (1 + i) for i in range(8)]
    frame = cases(ladder, tp=[1] * 8, concurrency=[2 ** (1 + i) for i in range(8)])
    perfect = percent(frame, ladder)
    assert (perfect["picks"], perfect["rate"]) == ((3, 0.0), (3, 0.0))
    assert percent(frame, [t / 2 for t in ladder])["picks"] == (3, 100.0)
    timid = percent(frame, [t * 1.3 for t in ladder])
    assert timid["picks"] == (3, 0.0)
    assert timid["rate"][1] > 10
    assert percent(frame, [float("nan")] * 8)["picks"] == (3, 100.0)


def test_separate_workers_are_refused():
    with pytest.raises(CalibrationError, match="column tp"):
        choices(pd.DataFrame({"osl": [1]}), pd.DataFrame({"tpot_s": [1.0], "ttft_s": [1.0]}))
