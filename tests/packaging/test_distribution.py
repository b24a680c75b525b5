"""The distribution: sdist -> wheel -> clean virtual environment, and the profiles arrive with it."""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from perfmodel.hardware.places import builtin_directory

CHECKOUT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.packaging


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command away from the checkout and without its variables; return what it wrote to stdout."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PERFMODEL_PROFILES", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def profiles_in_checkout() -> set[str]:
    """Every profile of the checkout, relative to its folder."""
    folder = CHECKOUT / "hardware_profiles"
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.toml")}


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Source distribution, and the wheel that was built from it and not from the checkout."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, CHECKOUT, cwd=folder)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def installed(distributions: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the programs of a clean virtual environment that holds the wheel and its dependencies."""
    home = tmp_path_factory.mktemp("clean")
    venv.create(home / "venv", with_pip=True)
    programs = home / "venv" / ("Scripts" if os.name == "nt" else "bin")
    # Byte-compiling the dependencies would take most of the time.
    run(programs / "python", "-m", "pip", "install", "--quiet", "--no-compile", distributions[1], cwd=home)
    return programs


def test_sdist_holds_what_a_build_and_the_tests_need(distributions):
    with tarfile.open(distributions[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"pyproject.toml", "README.md", "LICENSE", "perfmodel/py.typed", "tests/conftest.py", "docs/conf.py"}
    assert needed <= names
    assert {f"hardware_profiles/{name}" for name in profiles_in_checkout()} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith((".git/", "docs/generated", "dist"))]


def test_wheel_holds_the_package_and_the_profiles_and_nothing_else(distributions):
    with zipfile.ZipFile(distributions[1]) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        assert "License-Expression: Apache-2.0" in archive.read(metadata).decode()
    assert all(name.startswith("perfmodel/") for name in names)
    assert {"perfmodel/__init__.py", "perfmodel/py.typed"} <= names
    shipped = {name.removeprefix("perfmodel/_profiles/") for name in names if name.startswith("perfmodel/_profiles/")}
    assert profiles_in_checkout() <= shipped
    assert profiles_in_checkout(), "the checkout holds no hardware profile"


def test_installed_package_imports_from_its_own_environment(installed, tmp_path):
    printed = run(installed / "python", "-c", "import perfmodel; print(perfmodel.__file__)", cwd=tmp_path)
    assert Path(printed.strip()).is_relative_to(installed.parent)


def test_installed_command_finds_the_profiles(installed, tmp_path):
    assert "rank" in run(installed / "perfmodel", "--help", cwd=tmp_path)
    listed = run(installed / "perfmodel", "hardware", "list", cwd=tmp_path)
    for name in ("h100-sxm", "hgx-h100", "gb200-nvl72"):
        assert name in listed


def test_checkout_finds_its_own_profiles():
    assert builtin_directory() == CHECKOUT / "hardware_profiles"


def test_editable_install_finds_the_profiles_of_the_checkout(installed, tmp_path):
    # Stands last, because it replaces the wheel in the environment.
    run(installed / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--editable", CHECKOUT, cwd=tmp_path)
    code = "from perfmodel.hardware.places import builtin_directory; print(builtin_directory())"
    printed = run(installed / "python", "-c", code, cwd=tmp_path)
    assert Path(printed.strip()) == CHECKOUT / "hardware_profiles"
    assert "h100-sxm" in run(installed / "perfmodel", "hardware", "list", cwd=tmp_path)
