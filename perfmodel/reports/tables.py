"""Tables of text: columns aligned, nothing wrapped; on a narrow terminal the last columns are left out."""

from collections.abc import Sequence


def plain_table(header: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None) -> str:
    """Align columns: numbers to the right, words to the left.

    Parameters
    ----------
    header : sequence of str
        Column names.
    rows : sequence of sequence of str
        Cells.
    width : int, optional
        Characters of a line: columns that do not fit are left out, from the last, and named below the table.

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
    >>> print(plain_table(["tp", "bound"], [["8", "memory"], ["16", "network"]], width=11))
     tp
      8
     16
     Not shown for want of width: bound.
    """
    widths = [max(len(str(line[i])) for line in (header, *rows)) for i in range(len(header))]
    right = [all(_numeric(row[i]) for row in rows) for i in range(len(header))]
    shown = len(header)
    while width is not None and shown > 1 and sum(widths[:shown]) + 2 * shown - 1 > width:
        shown -= 1
    lines = []
    for line in (header, *rows):
        cells = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)]
        lines.append((" " + "  ".join(cells[:shown])).rstrip())
    if shown < len(header):
        lines.append(f" Not shown for want of width: {', '.join(header[shown:])}.")
    return "\n".join(lines)


def _numeric(cell: str) -> bool:
    return not cell or cell[0].isdigit() or cell[0] in "+-."
