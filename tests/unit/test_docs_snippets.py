"""Snippets of the documentation: what they print is shown, and one that fails stops the build."""

import pytest

from snippets import SnippetError, run_command, run_python


def test_printed_text_comes_before_the_last_value():
    assert run_python("x = 2\nprint('x is', x)\nx * 3", {}) == "x is 2\n6"


def test_a_snippet_without_output_shows_nothing():
    assert run_python("x = 2", {}) == ""
    assert run_python("None", {}) == ""


def test_snippets_of_a_page_share_their_names():
    names = {}
    run_python("def double(x):\n    return 2 * x", names)
    assert run_python("double(21)", names) == "42"


@pytest.mark.parametrize("code", ["1 / 0", "x = ", "import warnings; warnings.warn('old')"])
def test_a_snippet_that_fails_or_warns_is_an_error(code):
    with pytest.raises(SnippetError, match=r"Error|Warning"):
        run_python(code, {})


def test_only_the_package_itself_runs():
    with pytest.raises(SnippetError, match="only perfmodel"):
        run_command("ls /")


def test_a_command_shows_what_a_terminal_would():
    assert "rank" in run_command("perfmodel --help  # shows all")


def test_another_exit_code_than_announced_is_an_error():
    with pytest.raises(SnippetError, match="exit code 0 instead of 1"):
        run_command("perfmodel --help", exit_code=1)
    run_command("perfmodel hardware show no-such-device", exit_code=2)


def test_a_command_runs_in_the_folder_of_its_page(tmp_path):
    (tmp_path / "study.toml").write_text("[serving]\n")
    shown = run_command("perfmodel sweep study.toml -o results", exit_code=2, folder=str(tmp_path))
    assert shown == "perfmodel: study.toml: serving.model: is missing"
