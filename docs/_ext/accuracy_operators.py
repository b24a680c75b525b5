"""Tables of the page on accuracy about kernels: held-out errors of every calibration beside targets and reasons."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfmodel.calibrate.families import FAMILIES
from perfmodel.hardware.kernels import KernelCalibration
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


FEW_SHAPES = 6
"""Shapes of a kernel below which a third of them says little about the rest."""

_KEY = ("operator", "device", "engine", "kernel", "format", "kv_format")


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


def repeated_scores(found: Sequence[Entry], rules: Mapping[str, Any]) -> list[str]:
    """Tabulate the dated results of `perfmodel validate operators --held-out` beside the errors of this page."""
    rule = rules["held_out"]
    with (SCORES / rule["scores"]).open(encoding="utf-8", newline="") as file:
        scores = {tuple(row[name] for name in _KEY): row for row in csv.DictReader(file)}
    pairs = [(e, scores[key]) for e in found if (key := _key(e)) in scores]
    rows, worse = [], []
    for operator, title in OPERATORS.items():
        for few, shapes in ((False, f"{FEW_SHAPES} or more"), (True, f"fewer than {FEW_SHAPES}")):
            some = [
                (e, s) for e, s in pairs if e.kernel.operator == operator and (int(s["shapes"]) < FEW_SHAPES) is few
            ]
            if some:
                errors = [(e.error, float(s["mape"]), float(s["median"])) for e, s in some]
                means = (sum(each) / len(some) for each in zip(*errors, strict=True))
                rows.append((title, shapes, str(len(some)), *(f"{m:.1f}" for m in means)))
    for e, s in pairs:
        if not e.missed and float(s["mape"]) > e.target["mape"]:
            kernel = " ".join(filter(None, (e.kernel.engine, e.kernel.kernel, e.formats)))
            errors = (f"{e.error:.1f}", f"{float(s['mape']):.1f} / {float(s['median']):.1f}", f"{e.target['mape']:g}")
            worse.append((OPERATORS[e.kernel.operator], e.device, text(kernel), s["shapes"], *errors))
    lines = [f"Run on {rule['date']}. {text(rule['note'])}"]
    lines += table(("operator", "shapes", "kernels", "this page", "choice repeated", "its median"), rows)
    lines += [f"{len(worse)} kernels meet their target above and miss it when their choice is repeated:"]
    return lines + table(
        ("operator", "device", "kernel", "shapes", "this page", "choice repeated: mean / median", "target"), worse
    )


def _key(e: Entry) -> tuple[str, ...]:
    kernel = e.kernel
    return kernel.operator, e.device, kernel.engine, kernel.kernel, kernel.format, kernel.kv_format


def heldout_table() -> list[str]:
    """Tabulate which columns make a shape of each operator: a shape is held out whole."""
    rows = [
        (", ".join(f"`{op}`" for op in family.operators), ", ".join(f"`{name}`" for name in family.shape))
        for family in FAMILIES
    ]
    return table(("operators", "one shape is one"), rows)
