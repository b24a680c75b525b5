"""Calibrations anew: ``python docs/_ext/recalibrate.py CASES.csv...`` fits kernels and rewrites their entries.

Attributes and coefficients are those of a fit to all rows. The held-out errors are those of
`perfmodel validate operators --held-out`, which repeats the same fit without a third of the shapes.
"""

import argparse
import datetime
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from perfmodel.calibrate.cases import read_cases, words
from perfmodel.calibrate.families import FAMILY_OF, GROUP, device_case
from perfmodel.calibrate.files import calibration_toml, measured_range
from perfmodel.calibrate.fit_errors import errors_of
from perfmodel.calibrate.selection import fit_selected, menu
from perfmodel.hardware.places import builtin_directory
from perfmodel.validate.heldout import known_attributes, predict_held_out

DATASET = "operator tables of aiconfigurator-core 0.12.0 (Apache-2.0)"


def fitted(rows: Any, group: Mapping[str, str], known: Any) -> dict[str, Any]:
    """Fit one kernel to all of its rows."""
    case = device_case(rows, group)
    measured = rows["measured_s"].to_numpy(dtype=np.float64)
    shape = [case.rows[name].to_numpy(dtype=np.float64) for name in FAMILY_OF[group["op"]].shape]
    tried = menu(group, known)
    found = fit_selected(tried, case.sizes, case.numbers, measured, shape)
    held = errors_of(predict_held_out(rows)["time_s"].to_numpy(), measured)
    chosen = found.start.attributes
    return {
        "form": found.start.form.name,
        "attributes": {n: v for n, v in chosen.items() if n in found.start.form.attributes or n == "element_bytes"},
        # A switch that was searched for and not fitted is among the attributes of the search.
        "coefficients": {
            c.name: found.result.coefficients.get(c.name, chosen.get(c.name))
            for c in found.start.form.coefficients
            if c.name in found.needed or c.name in chosen
        },
        "provenance": {
            "dataset": DATASET,
            "date": datetime.date.today().isoformat(),
            "points": int(measured.size),
            "fit_mape": round(100.0 * found.result.mape, 2),
            "heldout_mape": round(100.0 * held.mape, 2),
            "heldout_median": round(100.0 * held.median, 2),
            "range": measured_range(found.start.form, case.sizes),
        },
    }


def rewrite(device: str, engine: str, entries: Mapping[tuple[str, ...], Mapping[str, Any]]) -> int:
    """Replace the entries of one calibration file; returns how many were found there."""
    path = builtin_directory() / "calibrations" / device / f"{engine}.toml"
    parsed = tomllib.loads(path.read_text(encoding="utf-8"))
    found = 0
    for kernel in parsed["kernel"]:
        key = tuple(kernel.get(name, "") for name in ("operator", "format", "kv_format", "kernel"))
        if key in entries:
            kernel.update(entries[key])
            found += 1
    path.write_text(calibration_toml(parsed["kernel"], owner={"device": device, "engine": engine}), encoding="utf-8")
    return found


def main() -> None:
    """Fit the kernels of the case files that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="+", type=Path)
    parser.add_argument("--where", default="", help="a query on the columns that selects the rows")
    options = parser.parse_args()
    known = known_attributes()
    for path in options.cases:
        cases = read_cases(path, ("op", "hardware", "engine", "measured_s"))
        cases = cases.query(options.where).reset_index(drop=True) if options.where else cases
        cases = cases.assign(**{name: words(cases, name) for name in GROUP})
        for (device, engine), part in cases.groupby(["hardware", "engine"], sort=False):
            entries = {}
            for _, rows in part.groupby(list(GROUP), sort=False):
                group = {name: str(rows[name].iloc[0]) for name in GROUP}
                entry = fitted(rows.reset_index(drop=True), group, known)
                exchange = group["op"] in ("dispatch", "combine")
                format = "" if exchange else group["dtype"]
                entries[group["op"], format, group["kv_dtype"], group["kernel"] or group["mode"]] = entry
                errors = entry["provenance"]
                print(*filter(None, group.values()), errors["fit_mape"], errors["heldout_mape"], flush=True)
                print("   ", len(entry["coefficients"]), entry["attributes"], flush=True)
            missing = len(entries) - rewrite(str(device), str(engine), entries)
            if missing:
                print(f"{device}/{engine}: {missing} kernels have no entry", file=sys.stderr)


if __name__ == "__main__":
    main()
