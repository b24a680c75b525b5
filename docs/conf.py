"""Configuration of the documentation: ``python -m sphinx -W --keep-going docs docs/_build``."""

import sys
import tomllib
from pathlib import Path

_DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(_DOCS.parent), str(_DOCS / "_ext")]

from perfmodel import __version__  # noqa: E402

with (_DOCS.parent / "pyproject.toml").open("rb") as _file:
    _project = tomllib.load(_file)["project"]

project = _project["name"]
author = _project["authors"][0]["name"]
copyright = author
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.mathjax", "perfmodel_docs"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "_ext", "generated/coefficients.md"]
nitpicky = True

html_theme = "furo"
html_title = f"{project} {version}"
html_copy_source = False
