"""Generated pages: nothing that is registered or catalogued is missing, and Markdown survives what sources contain."""

import re
from dataclasses import replace

from docstrings import registered_formulas
from perfmodel.hardware.catalog import list_devices, list_systems, load_device, load_system
from perfmodel.hardware.kernels import KernelCalibration
from reference_pages import calibrations_page, coefficients_page, formulas_page, hardware_page, table, text, write_pages


def test_text_is_escaped_outside_code_and_math():
    assert text("a | b,  $x*\n and `c | d`") == r"a \| b, \$x\* and `c \| d`"
    assert text("from :math:`|x|` [1]") == r"from $\vert x\vert $ \[1\]"


def test_a_table_without_rows_is_nothing():
    assert table(("a", "b"), []) == []
    assert table(("a", "b"), [("1", "2")])[1:4] == ["| a | b |", "|---|---|", "| 1 | 2 |"]


def test_every_formula_has_a_section_with_its_equation_source_and_coefficients():
    formulas = registered_formulas()
    page = formulas_page(formulas)
    assert sorted(re.findall(r"^### (.+)$", page, re.MULTILINE)) == sorted(formulas)
    for formula in formulas.values():
        section = page.partition(f"(formula-{formula.name})=")[2].partition("\n(formula-")[0]
        assert formula.equation.strip() in section
        assert text(formula.source) in section
        for coefficient in formula.coefficients:
            assert f"| `{coefficient.name}` |" in section
            assert f"`{coefficient.name}`" in coefficients_page(formulas)


def test_every_device_and_system_is_listed_with_the_source_of_each_number():
    devices, systems = [load_device(x) for x in list_devices()], [load_system(x) for x in list_systems()]
    page = hardware_page(devices, systems)
    for profile in (*devices, *systems):
        assert f"`{profile.id}`" in page
        assert all(text(fact.source) in page for fact in profile.provenance)
    assert "GiB" in page


def test_a_calibration_shows_its_data_and_errors():
    kernel = KernelCalibration(
        operator="gemm", engine="x", kernel="", format="fp8", kv_format="", version="1.0", form="roofline_time",
        coefficients={}, provenance={"dataset": "made up", "date": "2026", "fit_mape": 6.12, "heldout_mape": 7.0},
    )  # fmt: skip
    row = calibrations_page({"h100-sxm/x": [kernel]}).splitlines()[-2]
    assert [cell.strip() for cell in row.split("|")[1:-1]] == [
        "gemm", "fp8", "1.0", "[roofline_time](#formula-roofline_time)", "–", "6.12 %", "7 %", "made up, 2026",
    ]  # fmt: skip
    row = calibrations_page({"h100-sxm/x": [replace(kernel, basis="default")]}).splitlines()[-2]
    assert row.split("|")[6].strip() == "stands in"


def test_pages_that_did_not_change_are_not_written_again(tmp_path):
    write_pages(tmp_path)
    page = tmp_path / "formulas.md"
    before = page.stat().st_mtime_ns
    write_pages(tmp_path)
    assert page.stat().st_mtime_ns == before
