"""The page of figures: every picture is there and small, and its tables are those of the CSV files."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "figures"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_figures", ROOT / "scripts" / "make_figures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_figure_stands_in_the_page(script: ModuleType) -> None:
    page = script.PAGE.read_text(encoding="utf-8")
    assert re.findall(r"!\[[^\]]+\]\((\w+)\.png\)", page) == list(script.NAMES)
    assert {path.name for path in FOLDER.iterdir()} == {
        "README.md", *(f"{name}.{end}" for name in script.NAMES for end in ("png", "csv")),
    }  # fmt: skip
    for name in script.NAMES:
        section = page[page.index(f"({name}.png)") :]
        assert f"    tangovlm inspect {name}\n" in section
        section = section[: section.find("\n## ")]
        assert "**Seen here.**" in section
        assert "**In the paper**" in section.replace("**In the paper.**", "**In the paper**")
        assert "**Difference.**" in section or name == "compare"


def test_pictures_are_small(script: ModuleType) -> None:
    sizes = [(FOLDER / f"{name}.png").stat().st_size for name in script.NAMES]
    assert max(sizes) < 250_000
    assert sum(sizes) < 1_500_000


def test_tables_are_those_of_the_csv_files(script: ModuleType) -> None:
    page = script.PAGE.read_text(encoding="utf-8")
    assert script.filled(page) == page, "run: python scripts/make_figures.py --tables"
    stale = page.replace(" ± ", " +- ")
    assert script.filled(stale) == page != stale


def test_a_name_that_is_no_figure(script: ModuleType) -> None:
    with pytest.raises(SystemExit, match=r"no figure nothing.*attention"):
        script.main(["nothing"])
    with pytest.raises(SystemExit, match="one pair of markers"):
        script.filled("no tables")
