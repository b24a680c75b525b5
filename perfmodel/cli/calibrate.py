"""`perfmodel calibrate`: coefficients from a user's own measurements."""

from pathlib import Path
from typing import Annotated

import typer

from perfmodel.cli import options


def calibrate(
    cases: Annotated[Path, typer.Argument(help="CSV file of measured operators, with op and measured_s [s].")],
    hardware: Annotated[str, typer.Option(help="Device that was measured.")],
    engine: Annotated[str, typer.Option(help="Software whose kernels were timed, for instance trtllm or torch.")],
    output: options.Output = None,
    dataset: Annotated[str | None, typer.Option(help="Name of the data set; the file's name by default.")] = None,
    profiles: options.Profiles = None,
) -> None:
    """Fit the kernel coefficients of a device to measured operators, and say how well they predict held-out shapes."""
    from perfmodel.calibrate.cases import read_cases
    from perfmodel.calibrate.files import calibration_toml
    from perfmodel.calibrate.operators import calibrate_operators
    from perfmodel.hardware.catalog import list_devices, load_device
    from perfmodel.hardware.kernel_files import load_kernel_table
    from perfmodel.reports.tables import plain_table

    device = load_device(hardware, profiles)
    fitted = calibrate_operators(
        read_cases(cases, ("op", "measured_s")),
        device,
        engine,
        load_kernel_table(device.id, device.architecture, profiles),
        source=dataset or cases.name,
        elsewhere=[
            kernel
            for name in list_devices(profiles)
            if name != device.id
            for kernel in load_kernel_table(name, "", profiles).measured
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
    worse = sum(item.before_mape <= item.kernel["provenance"]["heldout_mape"] for item in fitted)
    if worse:
        typer.echo(
            f"{worse} of {len(fitted)} predict held-out shapes no better than what was known before; measure more,"
            " or leave their entries out",
            err=True,
        )
