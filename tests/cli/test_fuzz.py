"""A few rounds of the fuzz campaign of tests/campaigns, which runs longer by hand."""

from tests.campaigns.fuzz_commands import KINDS, campaign


def test_spoiled_input_ends_in_one_line_and_never_in_a_traceback() -> None:
    ends, wrong = campaign(80, 1)
    assert wrong == []
    # The dice reach every kind of input, and both ends of most.
    assert {end.split(": exit ")[0] for end in ends} == set(KINDS)
    assert {end.split(": exit ")[1] for end in ends} >= {"0", "2"}
