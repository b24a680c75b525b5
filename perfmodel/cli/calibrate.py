"""`perfmodel calibrate`: coefficients from a user's own measurements."""

from pathlib import Path
from typing import Annotated

import typer

from perfmodel.cli import options, training
from perfmodel.errors import PlanError


def calibrate(
    cases: Annotated[Path, typer.Argument(help="CSV file of measured operators (op, measured_s) or training steps.")],
    hardware: Annotated[str | None, typer.Option(help="Device whose operators were measured.")] = None,
    engine: Annotated[str | None, typer.Option(help="Software whose kernels were timed: trtllm, torch ...")] = None,
    stack: Annotated[str | None, typer.Option(help="Training stack to start from, for measured steps.")] = None,
    fit: Annotated[str, typer.Option(help="Constants of the stack to fit; by default as the steps allow.")] = "",
    output: options.Output = None,
    dataset: Annotated[str | None, typer.Option(help="Name of the data set; the file's name by default.")] = None,
    profiles: options.Profiles = None,
) -> None:
    """Fit a device's kernels to measured operators, or a training stack (--stack) to two or more measured steps.

    Operators: says how well the fit predicts shapes that were held out. Steps: one or two constants, two steps suffice.
    """
    if stack is not None:
        training.calibrate(cases, stack, fit, output, profiles)
        return
    if hardware is None or engine is None:
        missing = "--hardware" if hardware is None else "--engine"
        raise PlanError(f"{missing} is missing: operators need --hardware and --engine, training steps need --stack")
    from perfmodel.calibrate.cases import read_cases
    from perfmodel.calibrate.files import calibration_toml
    from perfmodel.calibrate.operators import calibrate_operators
    from perfmodel.estimate.kernel_checks import load_kernels
    from perfmodel.estimate.sustained import at_sustained_rates
    from perfmodel.hardware.catalog import list_devices, load_device
    from perfmodel.reports.tables import plain_table

    device = load_device(hardware, profiles)
    fitted, left_out = calibrate_operators(
        read_cases(cases, ("op", "measured_s")),
        device,
        engine,
        at_sustained_rates(load_kernels(device.id, device.architecture, profiles), device),
        source=dataset or cases.name,
        elsewhere=[
            kernel
            for name in list_devices(profiles)
            if name != device.id
            for kernel in load_kernels(name, "", profiles).measured
        ],
        profiles=profiles,
    )
    options.deliver(
        calibration_toml((item.kernel for item in fitted), owner={"device": device.id, "engine": engine}), output
    )
    rows = []
    for item in fitted:
        kernel, provenance = item.kernel, item.kernel["provenance"]
        rows.append(
            [
                kernel["operator"],
                kernel["format"],
                kernel["kernel"],
                str(provenance["points"]),
                f"{item.before_mape:.1f} %",
                f"{provenance['fit_mape']:.1f} %",
                f"{provenance['heldout_mape']:.1f} %",
            ]
        )
    header = ["operator", "format", "kernel", "points", "error before", "after the fit", "on held-out shapes"]
    typer.echo(plain_table(header, rows), err=True)
    for other in left_out:
        typer.echo(f"left out: {other.reason}", err=True)
    worse = sum(item.before_mape <= item.kernel["provenance"]["heldout_mape"] for item in fitted)
    if worse:
        typer.echo(
            f"{worse} of {len(fitted)} predict held-out shapes no better than what was known before; measure more,"
            " or leave their entries out",
            err=True,
        )
