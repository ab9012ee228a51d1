"""The notebooks of examples/ run, and their stored outputs are those of the library."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("notebooks", ROOT / "scripts" / "notebooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def section(title: str) -> str:
    """A section of CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_there_are_three() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["add_a_family", "add_a_method", "quickstart"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_gives_the_stored_outputs(path: Path) -> None:
    notebooks = script()
    stored = nbformat.read(path, as_version=4)
    assert any(notebooks.texts(stored))
    assert notebooks.texts(notebooks.executed(path)) == notebooks.texts(stored), "run: python scripts/notebooks.py"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_has_nothing_of_a_machine(path: Path) -> None:
    assert path.stat().st_size < 100_000
    stored = nbformat.read(path, as_version=4)
    nbformat.validate(stored)
    assert script().portable(nbformat.from_dict(stored.copy())) == stored
    text = "\n".join([*script().texts(stored), *(cell.source for cell in stored.cells)])
    assert not re.findall(r"(?<![\w.])/(?:tmp|home|root|usr|work|Users|opt)/\S*", text)


@pytest.mark.parametrize(
    ("name", "title"), [("add_a_method", "Adding a method"), ("add_a_family", "Adding a model family")]
)
def test_the_steps_are_those_of_contributing(name: str, title: str) -> None:
    notebook = nbformat.read(ROOT / "examples" / f"{name}.ipynb", as_version=4)
    markdown = " ".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    terms = set(re.findall(r"`([^`]+)`", section(title)))
    assert len(terms) > 3
    assert not {term for term in terms if f"`{term}`" not in markdown}


def test_a_cell_that_fails_is_an_error(tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")])
    nbformat.write(notebook, tmp_path / "fails.ipynb")
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        script().executed(tmp_path / "fails.ipynb")


def test_what_depends_on_the_machine_is_left_out() -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])
    cell = notebook.cells[0]
    cell.execution_count, cell.metadata = 7, nbformat.from_dict({"execution": {"iopub.execute_input": "today"}})
    cell.outputs = [
        nbformat.v4.new_output("stream", name="stderr", text="/tmp/file: warning"),
        nbformat.v4.new_output("execute_result", {"text/plain": "1"}, execution_count=7, metadata={"when": "today"}),
        nbformat.v4.new_output("display_data", {"image/png": "AAAA", "text/plain": "a picture"}),
    ]
    stored = script().portable(notebook)
    assert script().texts(stored) == ["1image/png"]
    assert "today" not in nbformat.writes(stored)
    assert "/tmp" not in nbformat.writes(stored)
    assert cell.execution_count is None
