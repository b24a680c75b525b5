"""Page on accuracy: errors of every calibration and constants of every engine, beside targets and reasons.

``python docs/_ext/accuracy_page.py`` writes docs/generated/accuracy.md, as every build of the documentation does.
"""

import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from accuracy_operators import (
    OPERATORS,
    RULES,
    defaults_table,
    entries,
    exception_table,
    heldout_table,
    operator_table,
    other_device_scores,
    repeated_scores,
    target_table,
)
from accuracy_serving import engine_tables, handoff_table, read_engines, serving_formulas, serving_scores
from perfmodel.hardware.catalog import list_devices
from perfmodel.hardware.kernel_files import read_calibrations
from perfmodel.hardware.kernels import KernelCalibration
from perfmodel.hardware.places import builtin_directory


def accuracy_page(
    files: Mapping[str, Sequence[KernelCalibration]], rules: Mapping[str, Any], engines: Mapping[str, Mapping[str, Any]]
) -> str:
    """Write the page."""
    measured = {name: kernels for name, kernels in files.items() if not name.startswith("defaults/")}
    defaults = {n.partition("/")[2]: kernels for n, kernels in files.items() if n.startswith("defaults/")}
    found = entries(measured, rules)
    devices = sorted({e.device for e in found})
    missed = [e for e in found if e.missed]
    host = sum(e.kernel.host_timed for e in found)
    lines = [
        "# Accuracy",
        "",
        "How far predictions are from measurements. Every figure on this page was read from the calibration and engine",
        "files when the page was built. To score the predictions against measured cases of your own, or those of this",
        "page again, run `perfmodel validate operators CASES.csv`.",
        "",
        "## Operators",
        "",
        f"{len(found)} kernel families of {len(devices)} devices are calibrated. An error is the mean absolute",
        "percentage error on shapes that were held out of the fit. Each family has a target:",
        f"{len(found) - len(missed)} meet theirs, and the {len(missed)} that do not are named [below](#exceptions).",
        "Some of the others miss it where the choice of their attributes is repeated too:",
        "[see there](#fit-and-choice-repeated).",
    ]
    lines += target_table(found, rules)
    lines += [
        "The tables that follow give the held-out error in percent, averaged over the kernels of a cell by their",
        "measured cases. It is bold where at least one of these kernels misses its target.",
        "",
    ]
    for operator, title in OPERATORS.items():
        group = [e for e in found if e.kernel.operator == operator]
        second = "mode" if operator in ("dispatch", "combine") else "format"
        lines += [f"### {title}", *operator_table(group, devices, second)] if group else []
    lines += [
        "(exceptions)=",
        "",
        "## Exceptions",
        "",
        "Every kernel whose held-out error is above its target, in percent. Where a target has two numbers, the second",
        "is for the median. “Unexplained” says that nobody found out why.",
        "",
    ]
    for operator, title in OPERATORS.items():
        group = [e for e in missed if e.kernel.operator == operator]
        if group:
            lines += [f"### {title}: {len(group)} above target", *exception_table(group)]
    lines += [
        "## How these numbers were made",
        "",
        "A kernel's coefficients are fitted to all of its cases; that error is the “fit” of the",
        "[calibrations](calibrations.md). For the held-out error the same fit is repeated without some of the shapes",
        "and scored on those. A shape is held out whole, with all of its token counts and contexts:",
        *heldout_table(),
        "What makes these numbers better than what a new shape will see:",
        "",
        "- Discrete attributes of a kernel (tiles, splits, packing) were chosen by the held-out error of the same",
        "  cases, and so were the forms themselves. The held-out errors are slightly optimistic for that.",
        "  `perfmodel validate operators CASES.csv --held-out` repeats fit and choice without each third of the shapes",
        "  and scores them on that third, from the formulas' defaults: nothing of a calibration file goes into it but",
        "  the list of attributes that exist. That list was itself made with all rows in view, by hand for MLA decode,",
        "  and so were the forms. On most of the matrix products of A100, B200 and GB200 it agrees with this page to",
        "  within 0.3 points, but not on all: in bf16 the wave softness of A100 is held at its default here and is",
        "  fitted there, and B200 and GB200 were fitted here to rows that were thinned less. The other families are",
        "  compared [below](#fit-and-choice-repeated).",
        "- Large tables were thinned to the number of cases that is given.",
        "- After the fit, coefficients whose default predicts as well were left at it: within a quarter of a point for",
        "  attention, where the held-out errors are those of the whole fit; within 0.03 points for matrix products;",
        "  within 0.2 points in sum, before the others were fitted again, where FlashAttention 2, XQA and the Triton",
        "  kernel of vLLM decode.",
        "- Shapes were held out, not devices, engine versions or clocks. Another version may run other kernels.",
        "",
        "What is not covered:",
        "",
        f"- {host} families were timed with the host's launches in their times. They are scored here as measured, and",
        "  not used in the steps of a deployment, which replay captured graphs: the nearest other kernel is.",
        "- Collectives were measured within one scale-up domain, on up to eight ranks, and alone: no computation",
        "  beside them. Across nodes closed forms of the fabric are used.",
        "- Normalisations, activations and other element-wise passes, and linear attention, rest on the datasheet and",
        "  default efficiencies.",
        f"- {len(list_devices()) - len(devices)} of the {len(list_devices())} devices of the catalogue were not",
        "  measured. They are predicted with the defaults below.",
        "",
        "(fit-and-choice-repeated)=",
        "",
        "### Fit and choice repeated",
        "",
        *repeated_scores(found, rules),
        "### Defaults",
        "",
        "Errors in percent of the coefficients that stand in for hardware of an architecture that was not measured,",
        "over all kernels that were measured on it; `generic` is over all architectures. Kernels of different engines",
        "share them. They are scored on the devices that they were fitted to, on held-out shapes where the file has",
        "that error and else on all: on another device of the architecture, expect more.",
        *defaults_table(defaults),
        *other_device_scores(rules),
        "## Serving",
        "",
        "A deployment is predicted from the time of a decode step and of a prompt, each the sum of its operators, and",
        "the closed forms below. The time per output token is `interleaved_tpot`. The time to the first token is the",
        "prompt's own, the host's time for a request, the steps until the token is seen, and the waits: for the others",
        "of a burst, for the prompts before it, and for a place in the cache.",
        "",
        *serving_formulas(),
        "### Constants of the engines",
        "",
        "What belongs to the software and not to the device or the model. The constants are the same for every model,",
        "device and load.",
        *engine_tables(engines),
        "### Constants of the hand-over",
        "",
        "Of deployments with separate workers, the same for every engine, fitted to their time to the first token.",
        *handoff_table(),
    ]
    lines += serving_scores(rules)
    return "\n".join(lines) + "\n"


def write_accuracy(folder: Path) -> None:
    """Write accuracy.md, unless it is the same already."""
    root = builtin_directory()
    calibrations = root / "calibrations"
    files = {
        path.relative_to(calibrations).with_suffix("").as_posix(): read_calibrations(path)
        for path in sorted(calibrations.rglob("*.toml"))
    }
    rules = tomllib.loads(RULES.read_text(encoding="utf-8"))
    page = accuracy_page(files, rules, read_engines(root / "engines"))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "accuracy.md"
    if not path.exists() or path.read_text(encoding="utf-8") != page:
        path.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    write_accuracy(Path(__file__).resolve().parents[1] / "generated")
