"""`perfmodel hardware` and `perfmodel model`: what the catalogues hold."""

from pathlib import Path
from typing import Annotated

import typer

from perfmodel.cli import options, screen

hardware = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Devices and systems with their sources.")
model = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Models that ship with the package, or your own.")


@hardware.command("list")
def hardware_list(profiles: options.Profiles = None) -> None:
    """List every device and every system."""
    from perfmodel.reports.catalogue import hardware_tables

    screen.show(hardware_tables(profiles), None)


@hardware.command("show")
def hardware_show(
    name: Annotated[str, typer.Argument(help="Device or system: a name or a TOML file.")],
    profiles: options.Profiles = None,
) -> None:
    """Show every number of a device or system, and where it comes from."""
    from perfmodel.reports.catalogue import hardware_sheet

    screen.show(hardware_sheet(name, profiles), None)


@hardware.command("validate")
def hardware_validate(files: Annotated[list[Path], typer.Argument(help="Profile files to check.")]) -> None:
    """Check profile files: schema, units, sources."""
    from perfmodel.hardware.catalog import validate_file

    for file in files:
        found = validate_file(file)
        typer.echo(f"{file}: {type(found).__name__.lower()} {found.id} is valid")


@model.command("list")
def model_list() -> None:
    """List the models that ship with the package."""
    from perfmodel.reports.catalogue import model_table

    screen.show(model_table(), None)


@model.command("show")
def model_show(name: Annotated[str, typer.Argument(help="Built-in name or the path of a config.json.")]) -> None:
    """Show a model: parameters, blocks, cache per token."""
    from perfmodel.reports.catalogue import model_sheet

    screen.show(model_sheet(name), None)
