"""The README shows what its first command really prints."""

from readme import README, computed, documented, without_times


def test_readme_shows_the_real_output():
    page = README.read_text(encoding="utf-8")
    real = without_times(computed(page))
    assert without_times(documented(page)) == real, "run: python docs/_ext/readme.py"
