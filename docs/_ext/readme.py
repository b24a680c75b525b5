"""Output of the README's first command: ``python docs/_ext/readme.py`` writes it anew, a test compares it."""

import re
import sys
from pathlib import Path

from snippets import run_command

README = Path(__file__).resolve().parents[2] / "README.md"
_BLOCK = re.compile(r"(?<=<!-- output of the command above -->\n)(?:```text\n(?P<output>.*?)\n```\n)?", re.DOTALL)
_COMMAND = re.compile(r"^\s*(perfmodel rank .*)$", re.MULTILINE)


def documented(text: str) -> str:
    """Return the output that the README shows."""
    match = _BLOCK.search(text)
    return match["output"] or "" if match else ""


def computed(text: str) -> str:
    """Run the first ranking command that the README shows and return its output."""
    match = _COMMAND.search(text)
    if match is None:
        raise SystemExit(f"{README}: no ranking command")
    return run_command(match[1])


def without_times(output: str) -> str:
    """Blank out how long the search took, which differs from run to run."""
    return re.sub(r"searched in [\d.]+ \w+", "searched in ...", output)


if __name__ == "__main__":
    sys.path.insert(0, str(README.parent))
    page = README.read_text(encoding="utf-8")
    block = f"```text\n{computed(page)}\n```\n"
    README.write_text(_BLOCK.sub(lambda _: block, page, count=1), encoding="utf-8")
