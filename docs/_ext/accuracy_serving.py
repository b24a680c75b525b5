"""Tables of the page on accuracy about serving: constants of the engines, their formulas, scores of deployments."""

import csv
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accuracy_operators import SCORES
from docstrings import parameters, registered_formulas, summary
from perfmodel.estimate.serving.disaggregated import HANDOFF, HandOff
from perfmodel.hardware.engine import Engine
from reference_pages import table, text


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
