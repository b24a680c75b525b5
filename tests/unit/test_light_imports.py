"""Imports stay light: nobody waits for a library that the command does not need."""

import subprocess
import sys

import pytest

HEAVY = ("numpy", "pandas", "scipy", "pydantic", "matplotlib", "pyarrow")
HELP = """
try:
    from perfmodel.cli.main import main
    sys.argv = ["perfmodel", "--help"]
    main()
except SystemExit:
    pass
"""


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("import perfmodel", ()),
        (HELP, ()),
        ("import perfmodel; perfmodel.load_system", ("numpy", "pydantic")),
        ("import perfmodel; perfmodel.rank", ("numpy", "pydantic")),
        ("import perfmodel; perfmodel.run_sweep", ("numpy", "pydantic")),
    ],
    ids=["import", "help", "load_system", "rank", "run_sweep"],
)
def test_heavy_libraries_are_not_imported(code, allowed):
    program = f"import sys\n{code}\nprint('loaded:', *sorted({set(HEAVY)!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = done.stdout.splitlines()[-1].split()[1:]
    assert set(loaded) <= set(allowed)
