"""Tables of text: columns aligned, nothing wrapped, the same on a terminal and in a pipe."""

from collections.abc import Sequence


def plain_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align columns: numbers to the right, words to the left.

    Parameters
    ----------
    header : sequence of str
        Column names.
    rows : sequence of sequence of str
        Cells.

    Returns
    -------
    str
        One line per row, without a final newline.

    Examples
    --------
    >>> print(plain_table(["tp", "bound"], [["8", "memory"], ["16", "network"]]))
     tp  bound
      8  memory
     16  network
    """
    widths = [max(len(str(line[i])) for line in (header, *rows)) for i in range(len(header))]
    right = [all(_numeric(row[i]) for row in rows) for i in range(len(header))]
    lines = []
    for line in (header, *rows):
        cells = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)]
        lines.append((" " + "  ".join(cells)).rstrip())
    return "\n".join(lines)


def _numeric(cell: str) -> bool:
    return not cell or cell[0].isdigit() or cell[0] in "+-."
