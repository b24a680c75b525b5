"""Screen: text laid out for a width: prose is wrapped, and last columns of words hang where a terminal is narrow."""

import re
from textwrap import wrap

VERDICT = "Best: "
"""What the verdict of a ranking begins with; its further lines stand under what follows."""

_GAP = re.compile(r"(?<=\S)\s{2,}(?!\[)(?=\S)")
_UNIT = re.compile(r"(?<=\d) (?=(?:[num]?s|min|h|days?|[kKMGTP]?i?B|[KMGTP]i?B|%|J|G|tokens)(?:[ ,.;:)/]|$))")
_TREE = re.compile(r"^[│├└─ ]*")
NARROWEST = 24
"""Characters below which a column is not wrapped: there is no room for it, or nothing to wrap."""


def fitted(text: str, width: int, *, hang: bool = False) -> str:
    r"""Lay text out for a width: sentences are wrapped, rows of tables stay rows.

    Parameters
    ----------
    text : str
        Lines of prose, tables and trees; what has two spaces between its words is a row.
    width : int
        Characters of a line.
    hang : bool, optional
        Whether the last column of a row that is too long is wrapped as well, under itself where there is room and on
        a line of its own where there is not. For terminals: in a pipe a row is a line.

    Returns
    -------
    str
        The same words on lines that fit, but for rows, and for words that are longer than a line.

    Examples
    --------
    >>> print(fitted(" Accuracy: decode 91%, prefill 81%.\n rank  tok/s/GPU  bound in decode", 24))
     Accuracy: decode 91%,
       prefill 81%.
     rank  tok/s/GPU  bound in decode
    """
    lines: list[str] = []
    for line in text.split("\n"):
        if len(line) <= width:
            lines.append(line)
        elif not _GAP.search(line):
            lines += _wrapped(line, width)
        else:
            lines += _hung(line, width) if hang else [line]
    return "\n".join(lines)


def _wrapped(line: str, width: int) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip()))
    return _filled(line.strip(), width, indent, " " * len(VERDICT) if line.startswith(VERDICT) else indent + "  ")


def _hung(line: str, width: int) -> list[str]:
    start = [gap.end() for gap in _GAP.finditer(line)][-1]
    head, tail = line[:start], line[start:]
    if len(tail) < NARROWEST:
        return [line]
    stem = _TREE.match(line)
    trunk = "" if stem is None else stem.group().replace("├", "│").replace("└", " ").replace("─", " ")
    if width - start >= NARROWEST:
        return _filled(tail, width, head, trunk.ljust(start))
    return [head.rstrip(), *_filled(tail, width, trunk + "   ", trunk + "   ")]


def _filled(words: str, width: int, first: str, further: str) -> list[str]:
    # A number stays with its unit: the space between them is none for the time of wrapping.
    lines = wrap(
        _UNIT.sub("\0", words),
        width,
        initial_indent=first,
        subsequent_indent=further,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace("\0", " ") for line in lines]
