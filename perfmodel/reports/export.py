"""Export: results as records, JSON and CSV, written whole or not at all."""

import csv
import io
import json
import math
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from perfmodel.errors import OutputError


def to_json(document: Mapping[str, Any]) -> str:
    """Write a document as strict JSON: a number that is not finite becomes null.

    Parameters
    ----------
    document : mapping
        Nested mappings, sequences, strings and numbers.

    Returns
    -------
    str
        JSON with a final newline.

    Examples
    --------
    >>> print(to_json({"ttft_s": float("nan")}), end="")
    {
      "ttft_s": null
    }
    """
    return json.dumps(_plain(document), indent=2, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def to_csv(rows: Sequence[Mapping[str, Any]], columns: Iterable[str] | None = None) -> str:
    """Write records as CSV.

    Parameters
    ----------
    rows : sequence of mapping
        Records with the same keys.
    columns : iterable of str, optional
        Columns and their order; the first record's keys by default.

    Returns
    -------
    str
        CSV with a header line; a number that is not finite is an empty field.

    Examples
    --------
    >>> print(to_csv([{"rank": 1, "ttft_s": 0.5}]), end="")
    rank,ttft_s
    1,0.5
    """
    names = list(columns if columns is not None else (rows[0] if rows else ()))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow(["" if (v := _plain(row.get(name))) is None else v for name in names])
    return stream.getvalue()


def write_whole(path: str | os.PathLike[str], text: str) -> None:
    """Write a file whole or not at all: into a temporary file beside it, then renamed.

    Parameters
    ----------
    path : path
        File to write; an existing one is replaced, behind a link the one that it leads to. A pipe or a device, as
        /dev/stdout may be, is written to.
    text : str
        Content.

    Raises
    ------
    OutputError
        If the directory does not exist or cannot be written, or the disk is full.
    """
    target = Path(path)
    temporary: str | None = None
    try:
        if target.exists() and not (target.is_file() or target.is_dir()):
            with target.open("w", encoding="utf-8", newline="") as stream:
                stream.write(text)
            return
        target = target.resolve()
        with tempfile.NamedTemporaryFile(
            "w", dir=target.parent, prefix=f".{target.name}.", delete=False, encoding="utf-8", newline=""
        ) as stream:
            temporary = stream.name
            stream.write(text)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except OSError as error:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
