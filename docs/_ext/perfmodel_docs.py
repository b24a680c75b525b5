"""Sphinx extension: writes the generated pages, and the directive ``run`` that shows a snippet with its real output."""

import contextlib
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from accuracy_page import write_accuracy
from reference_pages import write_pages
from snippets import SnippetError, run_command, run_python

_NAMES: dict[str, dict[str, Any]] = {}  # what the snippets of each page have defined so far
_FOLDERS: dict[str, tempfile.TemporaryDirectory[str]] = {}  # where the snippets of a page that has files of its own run


class Run(SphinxDirective):
    """Show a snippet (``python`` or ``console``) and, below it, what it wrote when the page was built.

    Python snippets of one page share their names. ``:exit:`` is the exit code that a command must end with, and with
    ``:markdown:`` what a snippet wrote is part of the page instead of shown. A snippet of another language, with
    ``:file:``, is a file: it lies in a folder of the page's own, in which all that follows runs. ``:figure:`` shows
    what a Python snippet leaves in the name ``figure``, where matplotlib is installed.
    """

    has_content = True
    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {
        "exit": directives.nonnegative_int,
        "columns": directives.positive_int,
        "hide": directives.flag,
        "markdown": directives.flag,
        "file": directives.unchanged_required,
        "figure": directives.unchanged_required,
    }

    def run(self) -> list[nodes.Node]:
        """Execute the snippet; its nodes are the snippet and what it wrote."""
        language, code = self.arguments[0], "\n".join(self.content)
        page = self.env.docname
        folder = _FOLDERS[page].name if page in _FOLDERS else "."
        names = _NAMES.setdefault(page, {"__name__": "snippet"})
        drawn = "figure" not in self.options or find_spec("matplotlib") is not None
        try:
            if language == "python":
                with contextlib.chdir(folder):
                    output = run_python(code, names) if drawn else "(drawn where matplotlib is installed)"
            elif "file" in self.options:
                folder = _FOLDERS.setdefault(page, tempfile.TemporaryDirectory(prefix="perfmodel-docs-")).name
                Path(folder, self.options["file"]).write_text(code + "\n", encoding="utf-8")
                output = ""
            elif language == "console":
                exit_code, columns = self.options.get("exit", 0), self.options.get("columns", 120)
                output = run_command(code, exit_code=exit_code, columns=columns, folder=folder)
                code, output = f"$ {code}\n{output}", ""
            else:
                raise SnippetError(f"cannot run {language!r}; there are 'python' and 'console'")
        except SnippetError as error:
            path, line = self.get_source_info()
            raise ExtensionError(f"{path}:{line}: a snippet failed\n{error}") from error
        if "markdown" in self.options:
            return self.parse_text_to_nodes(output)
        shown = [] if "hide" in self.options else [nodes.literal_block(code, code, language=language)]
        written = [nodes.literal_block(output, output, language="text")] if output else []
        return [*shown, *written, *(self._image(names["figure"]) if "figure" in self.options and drawn else [])]

    def _image(self, figure: Any) -> list[nodes.Node]:
        """Keep a figure beside the generated pages; its node shows it."""
        name = f"generated/{self.options['figure']}.svg"
        figure.savefig(Path(self.env.srcdir) / name, bbox_inches="tight")
        return [nodes.image(uri=f"/{name}", alt=self.options["figure"].replace("-", " "))]


def generate(app: Sphinx) -> None:
    """Write docs/generated/ before the pages are read."""
    folder = Path(app.srcdir) / "generated"
    write_pages(folder)
    write_accuracy(folder)


def forget(_app: Sphinx, docname: str, _source: list[str]) -> None:
    """Begin every page with no names."""
    _NAMES.pop(docname, None)
    _FOLDERS.pop(docname, None)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_directive("run", Run)
    app.connect("builder-inited", generate)
    app.connect("source-read", forget)
    # Snippets print to the one stdout that there is.
    return {"parallel_read_safe": False, "parallel_write_safe": True}
