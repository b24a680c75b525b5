"""Page on accuracy: errors of every calibration and constants of every engine, beside targets and reasons.

``python docs/_ext/accuracy_page.py`` writes docs/generated/accuracy.md, as every build of the documentation does.
"""

import csv
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from docstrings import parameters, registered_formulas, summary
from perfmodel.calibrate.families import FAMILIES
from perfmodel.estimate.serving.disaggregated import HANDOFF, HandOff
from perfmodel.hardware.catalog import list_devices
from perfmodel.hardware.engine import Engine
from perfmodel.hardware.kernel_files import read_calibrations
from perfmodel.hardware.kernels import KernelCalibration
from perfmodel.hardware.places import builtin_directory
from reference_pages import percent, table, text

RULES = Path(__file__).with_name("accuracy.toml")
"""Targets and known reasons."""

SCORES = Path(__file__).with_name("scores")
"""Tables of `perfmodel validate serving`, as it wrote them."""

OPERATORS: Mapping[str, str] = {
    "gemm": "Matrix products",
    "prefill_attention": "Prefill attention",
    "decode_attention": "Decode attention",
    "prefill_mla": "Latent attention, prefill",
    "decode_mla": "Latent attention, decode",
    "moe": "Mixture of experts",
    "all_reduce": "All-reduce",
    "all_gather": "All-gather",
    "reduce_scatter": "Reduce-scatter",
    "all_to_all": "All-to-all",
    "dispatch": "Dispatch to experts",
    "combine": "Combine from experts",
}
"""Operators in the order of the page."""


@dataclass(frozen=True)
class Entry:
    """One calibrated kernel family beside its target.

    Parameters
    ----------
    device : str
        Device that was measured.
    kernel : KernelCalibration
        Its calibration.
    target : mapping
        Name, and limits of mean and median error.
    reason : str
        Why it misses its target, where that is known.
    """

    device: str
    kernel: KernelCalibration
    target: Mapping[str, Any]
    reason: str

    @property
    def error(self) -> float:
        """Mean error on held-out shapes in percent."""
        return float(self.kernel.provenance["heldout_mape"])

    @property
    def median(self) -> float:
        """Median error on held-out shapes in percent."""
        return float(self.kernel.provenance["heldout_median"])

    @property
    def missed(self) -> bool:
        """Whether the mean or, where the target has one, the median is above its limit."""
        return self.error > self.target["mape"] or self.median > self.target.get("median", float("inf"))

    @property
    def formats(self) -> str:
        """Operand format, and that of the cache where there is one."""
        return self.kernel.format + (f", KV {self.kernel.kv_format}" if self.kernel.kv_format else "")


def fits(rule: Mapping[str, Any], device: str, kernel: KernelCalibration) -> bool:
    """Say whether a target or a reason is about a kernel."""
    exact = {"operator": kernel.operator, "format": kernel.format, "engine": kernel.engine, "device": device}
    part = {"kernel": kernel.kernel, "form": kernel.form}
    return all(value in rule.get(key, (value,)) for key, value in exact.items()) and all(
        rule.get(key, "") in value for key, value in part.items()
    )


def entries(files: Mapping[str, Sequence[KernelCalibration]], rules: Mapping[str, Any]) -> list[Entry]:
    """Pair every kernel of `device/engine` files with the first target and the first reason that fit.

    Kernels whose coefficients were taken from printed figures have nothing that was held out, and are not among them.
    """
    found = []
    for name, kernels in files.items():
        device = name.partition("/")[0]
        for kernel in (each for each in kernels if not each.provenance.get("published")):
            target = next((rule for rule in rules["target"] if fits(rule, device, kernel)), None)
            if target is None:
                raise ValueError(f"{RULES.name}: no target fits {kernel.operator} {kernel.format} of {name}")
            reason = next((rule["text"] for rule in rules["reason"] if fits(rule, device, kernel)), "unexplained")
            found.append(Entry(device, kernel, target, reason))
    order = list(OPERATORS)
    return sorted(found, key=lambda e: order.index(e.kernel.operator))


def mean(group: Iterable[Entry]) -> float:
    """Mean error of kernels, each weighted with its measured cases."""
    points = [(e.error, float(e.kernel.provenance["points"])) for e in group]
    return sum(error * weight for error, weight in points) / sum(weight for _, weight in points)


def target_table(found: Sequence[Entry], rules: Mapping[str, Any]) -> list[str]:
    """Tabulate how many families meet each target."""
    rows = []
    for rule in rules["target"]:
        group = [e for e in found if e.target is rule]
        if group:
            limit = f"{rule['mape']:g} %" + (f", median {rule['median']:g} %" if "median" in rule else "")
            met = sum(not e.missed for e in group)
            worst = max(group, key=lambda e: e.error)
            rows.append(
                (text(rule["name"]), limit, f"{met} of {len(group)}", percent(mean(group)), percent(worst.error))
            )
    return table(("family", "target", "kernels that meet it", "mean", "worst"), rows)


def operator_table(found: Sequence[Entry], devices: Sequence[str], second: str = "format") -> list[str]:
    """Tabulate one operator by engine and format or mode, devices across; bold where a kernel misses its target."""

    def row_of(e: Entry) -> tuple[str, str]:
        return e.kernel.engine, e.formats if second == "format" else e.kernel.kernel

    rows = []
    for row in dict.fromkeys(map(row_of, found)):
        cells = []
        for device in devices:
            group = [e for e in found if e.device == device and row_of(e) == row]
            cell = f"{mean(group):.1f}" if group else "–"
            cells.append(f"**{cell}**" if any(e.missed for e in group) else cell)
        rows.append((*map(text, row), *cells))
    return table(("engine", second, *devices), sorted(rows))


def exception_table(found: Sequence[Entry]) -> list[str]:
    """List every kernel of an operator that misses its target."""
    rows = []
    for e in found:
        if e.missed:
            limit = f"{e.target['mape']:g}" + (f" / {e.target['median']:g}" if "median" in e.target else "")
            kernel = f"{e.kernel.engine} {e.formats}" + (f", `{e.kernel.kernel}`" if e.kernel.kernel else "")
            points = str(e.kernel.provenance["points"])
            rows.append((e.device, text(kernel), points, f"{e.error:.1f} / {e.median:.1f}", limit, text(e.reason)))
    return table(("device", "kernel", "cases", "mean / median", "target", "reason"), rows)


def defaults_table(files: Mapping[str, Sequence[KernelCalibration]]) -> list[str]:
    """Tabulate the errors of the defaults that stand in for hardware that was not measured."""
    rows: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = {}
    for name, kernels in files.items():
        for k in kernels:
            formats = k.format + (f", KV {k.kv_format}" if k.kv_format else "")
            cell = rows.setdefault((OPERATORS[k.operator], formats), {}).setdefault(name, [])
            cell.append((float(k.provenance.get("heldout_mape", k.provenance["fit_mape"])), k.provenance["points"]))
    body = []
    titles = list(OPERATORS.values())
    for row, cells in sorted(rows.items(), key=lambda each: titles.index(each[0][0])):
        means = {n: sum(e * p for e, p in cell) / sum(p for _, p in cell) for n, cell in cells.items()}
        body.append((*map(text, row), *(f"{means[n]:.1f}" if n in means else "–" for n in files)))
    return table(("operator", "format", *files), body)


def other_device_scores(rules: Mapping[str, Any]) -> list[str]:
    """Tabulate the dated results of `perfmodel validate operators --leave-out hardware`."""
    lines = []
    for each in rules.get("other_devices", ()):
        with (SCORES / each["scores"]).open(encoding="utf-8", newline="") as file:
            found = list(csv.DictReader(file))
        lines += [f"#### {text(each['title'])}", "", f"Scored on {each['date']}. {text(each['note'])}"]
        columns = ("mape", "median", "p90", "bias")
        body = [
            (text(r["group"]), f"{float(r['cases']):,.0f}", *(f"{float(r[n]):.1f}" for n in columns)) for r in found
        ]
        lines += table(("device", "cases", *columns), body)
    return lines


def heldout_table() -> list[str]:
    """Tabulate which columns make a shape of each operator: a shape is held out whole."""
    rows = [
        (", ".join(f"`{op}`" for op in family.operators), ", ".join(f"`{name}`" for name in family.shape))
        for family in FAMILIES
    ]
    return table(("operators", "one shape is one"), rows)


def read_engines(folder: Path) -> dict[str, Mapping[str, Any]]:
    """Read the engine files as they stand: file name -> tables."""
    return {path.stem: tomllib.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.toml"))}


def shown(value: Any) -> str:
    """Write a constant of an engine file; one with several parts is a table of them beside its source."""
    if isinstance(value, Mapping):
        return (
            shown(value["value"])
            if "value" in value
            else ", ".join(f"{key} {shown(part)}" for key, part in value.items() if key not in ("source", "note"))
        )
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def engine_tables(engines: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Tabulate every constant: its value in each engine and what it means, then the sources."""
    meanings = parameters(Engine)
    order = list(meanings)
    tables = {key for each in engines.values() for key, value in each.items() if isinstance(value, Mapping)}
    keys = sorted(tables, key=lambda key: order.index(key if key in meanings else f"{key}_s"))
    rows = []
    for key in keys:
        item = meanings.get(key) or meanings[f"{key}_s"]
        values = [shown(each[key]) if key in each else "–" for each in engines.values()]
        rows.append((f"`{key}`", *map(text, values), text(item.description)))
    lines = table(("constant", *engines, "meaning"), rows)
    lines += ["Where a constant has no value, it is that of an engine without such a thing. Their sources:"]
    sources: dict[tuple[str, str, str], list[str]] = {}
    for engine, each in engines.items():
        for key in keys:
            if key in each:
                sources.setdefault((key, each[key]["source"], each[key].get("note", "")), []).append(engine)
    body = [(f"`{key}`", ", ".join(names), text(source), text(note)) for (key, source, note), names in sources.items()]
    body.sort(key=lambda row: keys.index(row[0].strip("`")))
    return lines + table(("constant", "engines", "source", "note"), body)


def handoff_table() -> list[str]:
    """Tabulate the constants of deployments with separate workers."""
    rows = [(f"`{n}`", f"{getattr(HANDOFF, n):g}", text(item.description)) for n, item in parameters(HandOff).items()]
    return table(("constant", "value", "meaning"), rows)


def serving_formulas() -> list[str]:
    """Show the registered formulas of the serving model."""
    lines: list[str] = []
    for formula in registered_formulas().values():
        if formula.function.__module__ == "perfmodel.costs.serving":
            what = text(summary(formula.function))
            lines += [
                f"[{formula.name}](#formula-{formula.name}): {what}",
                "",
                "```{math}",
                formula.equation,
                "```",
                "",
            ]
    return lines


def serving_scores(rules: Mapping[str, Any]) -> list[str]:
    """Tabulate the dated results of `perfmodel validate serving`, where there are any."""
    lines = []
    for each in rules.get("serving", ()):
        with (SCORES / each["scores"]).open(encoding="utf-8", newline="") as file:
            found = list(csv.DictReader(file))
        lines += [f"#### {text(each['title'])}", "", f"Scored on {each['date']}. {text(each['note'])}"]
        percents = ("coverage", "mape", "median", "p90", "bias")
        rows = []
        for row in found:
            errors = (f"{float(row[name]):.1f}" for name in percents)
            rows.append((text(row["group"]), row["metric"].upper(), f"{float(row['cases']):,.0f}", *errors))
        lines += table(("engine and device", "metric", "cases", *percents), rows)
        if "choices" in each:
            with (SCORES / each["choices"]).open(encoding="utf-8", newline="") as file:
                asked = [(text(r["question"]), f"{float(r['cases']):,.0f}", r["percent"]) for r in csv.DictReader(file)]
            lines += table(("choices", "pairs or picks", "percent"), asked)
    if not lines:
        return []
    head = [
        "### Scores",
        "",
        "Errors of measured deployments in percent, as `perfmodel validate serving CASES.csv` prints them. The cases",
        "are deployments in silicon_sample.csv of aiconfigurator-core 0.12.0 (Apache-2.0, NVIDIA).",
        "",
    ]
    return head + lines


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
        "  fitted there, and B200 and GB200 were fitted here to rows that were thinned less. The errors of A100's",
        "  all-reduce, all-gather and reduce-scatter are those of the command; so are those of decode attention with",
        "  a cache that fills whole on L40S and RTX PRO 6000, but for the attributes they had before. The other",
        "  families have not been compared.",
        "- Large tables were thinned to the number of cases that is given.",
        "- After the fit, coefficients whose default predicts as well were left at it: within a quarter of a point for",
        "  attention, where the held-out errors are those of the whole fit; within 0.03 points for matrix products.",
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
