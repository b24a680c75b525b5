"""What every test shares: hypothesis profiles and the measured case files."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The default draws the same examples every time, so a red run is a change and never luck.
settings.register_profile("default", max_examples=60, deadline=None, derandomize=True)
settings.register_profile("thorough", max_examples=2000, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

CHECKOUT = Path(__file__).resolve().parents[1]


def find_cases() -> tuple[Path | None, str]:
    """Return the folder of measured case files, or None and the reason why there is none."""
    named = os.environ.get("PERFMODEL_CASES")
    if named:
        folder = Path(named)
        return (folder, "") if folder.is_dir() else (None, f"$PERFMODEL_CASES is {named!r}, which is no folder")
    folder = CHECKOUT.parent / "shared" / "data"
    if folder.is_dir():
        return folder, ""
    return None, "no measured case files: $PERFMODEL_CASES is not set and ../shared/data is not beside the checkout"


@pytest.fixture(scope="session")
def cases_dir() -> Path:
    """Folder of the measured case files; the test is skipped where there is none."""
    folder, reason = find_cases()
    if folder is None:
        pytest.skip(reason)
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark whatever reads the case files, so that ``-m "not cases"`` leaves it out."""
    for item in items:
        if "cases_dir" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.cases)
