"""Generated pages: the formula reference from the register, the hardware tables from the catalogue."""

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from docstrings import Item, load, parameters, public_modules, registered_formulas, sections, summary
from perfmodel.costs.registry import Coefficient, Formula
from perfmodel.hardware.catalog import list_devices, list_systems, load_device, load_system
from perfmodel.hardware.device import Device, Provenance
from perfmodel.hardware.fabric import System
from perfmodel.hardware.kernel_files import read_calibrations
from perfmodel.hardware.kernels import KernelCalibration
from perfmodel.hardware.places import builtin_directory
from perfmodel.units import format_quantity

_VERBATIM = re.compile(r"(:math:`[^`]*`|``[^`]*``|`[^`]*`)")


def text(words: str) -> str:
    """Turn a sentence of a docstring into Markdown that holds in a table: code and math stay, the rest is escaped."""
    parts = _VERBATIM.split(" ".join(words.split()))
    for n, part in enumerate(parts):
        if part.startswith(":math:"):
            parts[n] = f"${part[7:-1]}$".replace("|", r"\vert ")
        elif n % 2:
            parts[n] = part.replace("|", r"\|")
        else:
            parts[n] = re.sub(r"([\\|*$<\[\]{}])", r"\\\1", part)
    return "".join(parts)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Write a Markdown table, and nothing where there are no rows."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return ["", f"| {' | '.join(head)} |", "|" + "---|" * len(head), *lines, ""] if lines else []


def number(value: float) -> str:
    """Write a coefficient's number."""
    return "∞" if value == float("inf") else f"{value:.6g}"


def formula_section(formula: Formula) -> list[str]:
    """Describe one registered formula."""
    function = formula.function
    parts, arguments = sections(function), parameters(function)
    coefficients = {c.name: c for c in formula.coefficients}
    signature = inspect.signature(function).parameters
    prose = [p for p in parts[""].split("\n\n")[1:] if ".. math::" not in p and not p.startswith("    ")]
    lines = [f"(formula-{formula.name})=", f"### {formula.name}", "", text(summary(function)), ""]
    lines += ["```{math}", formula.equation.strip(), "```", ""]
    lines += [line for paragraph in prose for line in (text(paragraph), "")]
    rows = [
        (
            f"`{name}`",
            "size" if p.kind is p.POSITIONAL_OR_KEYWORD else "keyword",
            item.unit or "1",
            text(_without(item)),
        )
        for name, p in signature.items()
        if name not in coefficients and (item := arguments.get(name)) is not None
    ]
    lines += table(("argument", "kind", "unit", "meaning"), rows)
    lines += coefficient_table(formula.coefficients)
    lines += [f"- `{name}` is one of {', '.join(f'`{v}`' for v in each)}" for name, each in formula.attributes.items()]
    valid = [f"`{name}` from {number(low)} to {number(high)}" for name, (low, high) in formula.valid.items()]
    lines += ["", f"Valid for {', '.join(valid) if valid else 'all arguments that make sense'}.", ""]
    lines += [f"Source: {text(formula.source)}", ""]
    if ">>>" in parts.get("Examples", ""):
        lines += ["```pycon", *inspect.cleandoc(parts["Examples"]).splitlines(), "```", ""]
    return lines


def _without(item: Item) -> str:
    """Return a description without the unit in brackets at its end."""
    description, unit = item.description, item.unit
    return re.sub(rf"\s*\[{re.escape(unit)}\](\.?)$", r"\1", description) if unit else description


def coefficient_table(coefficients: Iterable[Coefficient]) -> list[str]:
    """Tabulate calibrated coefficients."""
    rows = [
        (f"`{c.name}`", c.unit, number(c.default), f"{number(c.low)} to {number(c.high)}", text(c.meaning))
        for c in coefficients
    ]
    return table(("coefficient", "unit", "default", "bounds", "meaning"), rows)


def formulas_page(formulas: Mapping[str, Formula]) -> str:
    """Write the formula reference, one part per module."""
    lines = ["# Formulas", "", f"All {len(formulas)} registered closed forms, written from the register when this page"]
    lines += [
        "was built. Sizes are positional; hardware numbers and coefficients are keywords; everything is in SI units."
    ]
    lines += ["A coefficient's default stands in wherever nothing was calibrated.", ""]
    for module in sorted({formula.function.__module__ for formula in formulas.values()}):
        here = [formula for formula in formulas.values() if formula.function.__module__ == module]
        lines += [f"## {module}", "", text(summary(load(module))), ""]
        lines += table(
            ("formula", "gives", "what it is"),
            [(f"[{f.name}](#formula-{f.name})", f.quantity, text(summary(f.function))) for f in here],
        )
        lines += [line for formula in here for line in formula_section(formula)]
    return "\n".join(lines) + "\n"


def coefficients_page(formulas: Mapping[str, Formula]) -> str:
    """Write the coefficients and kernel attributes of all formulas by name."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for formula in formulas.values():
        for c in formula.coefficients:
            rows.setdefault((c.name, c.unit, text(c.meaning)), []).append(f"[{formula.name}](#formula-{formula.name})")
        for name, values in formula.attributes.items():
            meaning = "one of " + ", ".join(f"`{v}`" for v in values)
            rows.setdefault((name, "1", meaning), []).append(f"[{formula.name}](#formula-{formula.name})")
    body = [(f"`{name}`", unit, meaning, ", ".join(used)) for (name, unit, meaning), used in sorted(rows.items())]
    return "\n".join(table(("name", "unit", "meaning", "used by"), body)) + "\n"


def shown(value: float | None, dimension: str, *, binary: bool = False) -> str:
    """Write a number of a profile, or a dash where nobody publishes it."""
    return "–" if value is None else format_quantity(value, dimension, binary=binary)


def provenance_table(provenance: Iterable[Provenance]) -> list[str]:
    """Tabulate where every number of a profile comes from."""
    rows = []
    for p in provenance:
        is_link = p.reference.startswith(("https://", "http://")) and " " not in p.reference
        source = f"[{text(p.source)}]({p.reference})" if is_link else f"{text(p.source)}, {text(p.reference)}"
        rows.append((f"`{p.key}`", text(p.text), p.basis, f"{source}, {p.date}", text(p.note)))
    return table(("key", "value", "basis", "source", "note"), rows)


def hardware_page(devices: Sequence[Device], systems: Sequence[System]) -> str:
    """Write the tables of the catalogue."""
    lines = [
        "# Hardware",
        "",
        f"The {len(devices)} devices and {len(systems)} systems of the built-in catalogue. Peaks are",
    ]
    lines += [
        "dense, bandwidths one-way per device, and memory is what a framework can allocate from. A dash stands for a"
    ]
    lines += [
        "number that nobody publishes. The source of each number is in the tables further down.",
        "",
        "## Devices",
    ]
    peaks = ("bf16", "fp8", "fp4")
    rows = [
        (
            f"[{d.id}](#device-{d.id})",
            text(d.name),
            *(shown(d.peak_flops.get(f), "compute") for f in peaks),
            shown(d.memory_bytes, "size", binary=True),
            shown(d.memory_bandwidth, "bandwidth"),
            str(d.cores),
            shown(d.cache_bytes, "size", binary=True),
            shown(d.power_w, "power"),
            f"[{d.default_system}](#system-{d.default_system})",
        )
        for d in devices
    ]
    lines += table(("device", "name", *peaks, "memory", "bandwidth", "cores", "cache", "power", "system"), rows)
    lines += ["## Systems"]
    rows = [
        (
            f"[{s.id}](#system-{s.id})",
            f"[{s.device.id}](#device-{s.device.id})",
            t.name,
            str(t.devices),
            t.topology,
            shown(t.bandwidth, "bandwidth"),
            shown(t.latency_s, "time"),
            "yes" if t.in_network_reduction else "no",
        )
        for s in systems
        for t in s.tiers
    ]
    head = ("system", "device", "tier", "devices", "topology", "bandwidth", "latency", "adds in the switch")
    lines += table(head, rows)
    lines += ["## Sources of the devices", ""]
    for d in devices:
        lines += [f"(device-{d.id})=", f"### {text(d.name)}", ""]
        lines += [f"`{d.id}`, {text(d.vendor)}, architecture `{d.architecture}`.", ""]
        lines += provenance_table(d.provenance)
    lines += ["## Sources of the systems", ""]
    for s in systems:
        lines += [f"(system-{s.id})=", f"### {text(s.name)}", "", f"`{s.id}`.", "", *provenance_table(s.provenance)]
    return "\n".join(lines) + "\n"


def percent(value: object) -> str:
    """Write an error that is in percent already."""
    return f"{value:.3g} %" if isinstance(value, float | int) else "–"


def calibrations_page(files: Mapping[str, Sequence[KernelCalibration]]) -> str:
    """Write what was calibrated, on which data, and how far predictions were off on shapes held out of the fit."""
    lines = [
        "# Calibrations",
        "",
        "Coefficients fitted to measurements, one part per device and engine. The errors are mean",
    ]
    lines += [
        "absolute percentage errors: of the fit, and on shapes that were held out of it. A device without a part here"
    ]
    lines += [
        "is predicted with the defaults of its architecture. Where a row `stands in`, nobody published this kernel:"
    ]
    lines += ["its coefficients are those of another kernel of the device, or derived, and the data are theirs.", ""]
    for title, kernels in files.items():
        rows = []
        for k in kernels:
            formats = ", ".join(filter(None, (k.format, k.kv_format and f"KV {k.kv_format}", k.kernel)))
            data = ", ".join(text(str(k.provenance[key])) for key in ("dataset", "date") if key in k.provenance)
            fit, heldout = (percent(k.provenance.get(key)) for key in ("fit_mape", "heldout_mape"))
            fit = "stands in" if k.basis == "default" else fit
            points = str(k.provenance.get("points", "–"))
            form = f"[{k.form}](#formula-{k.form})"
            rows.append((k.operator, text(formats), text(k.version), form, points, fit, heldout, data))
        lines += [f"## {title}", ""]
        head = ("operator", "formats and kernel", "version", "formula", "points", "fit", "held out", "data")
        lines += table(head, rows)
    return "\n".join(lines) + "\n"


def modules_page(names: Iterable[str]) -> str:
    """Write the list of public modules with what each offers."""
    lines = ["# Modules", "", "What every public module offers, each with the first sentence of its docstring;"]
    lines += ["`help()` shows the rest.", ""]
    for name in names:
        module = load(name)
        members = {
            key: member
            for key, member in vars(module).items()
            if not key.startswith("_") and getattr(member, "__module__", None) == name and callable(member)
        }
        if members:
            lines += [f"## {name}", "", text(summary(module)), ""]
            lines += table(("name", "what it is"), [(f"`{key}`", text(summary(m))) for key, m in members.items()])
    return "\n".join(lines) + "\n"


def write_pages(folder: Path) -> None:
    """Write every generated page, touching only those that changed."""
    formulas = registered_formulas()
    devices, systems = [load_device(x) for x in list_devices()], [load_system(x) for x in list_systems()]
    folder_of_files = builtin_directory() / "calibrations"
    files = {
        path.relative_to(folder_of_files).with_suffix("").as_posix(): read_calibrations(path)
        for path in sorted(folder_of_files.rglob("*.toml"))
    }
    pages = {
        "formulas.md": formulas_page(formulas),
        "coefficients.md": coefficients_page(formulas),
        "hardware.md": hardware_page(devices, systems),
        "calibrations.md": calibrations_page(files),
        "modules.md": modules_page(public_modules()),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in pages.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != page:
            path.write_text(page, encoding="utf-8")
