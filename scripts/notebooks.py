"""Execute the notebooks of examples/.

python scripts/notebooks.py            execute them and store their outputs
python scripts/notebooks.py --check    execute them and exit with 1 if a text differs from the stored one

Stored notebooks have what does not depend on the machine: no warnings and progress on stderr, no execution times, no
versions. Pictures are stored, and not compared.
"""

import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
SECONDS_A_CELL = 600
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def executed(path: Path) -> NotebookNode:
    """The notebook with the outputs of an execution in an empty folder.

    Raises
    ------
    nbclient.exceptions.CellExecutionError: a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=SECONDS_A_CELL, kernel_name="python3", resources=resources).execute()
    return portable(notebook)


def portable(notebook: NotebookNode) -> NotebookNode:
    """The notebook without what depends on the machine."""
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = nbformat.from_dict({})
        if cell.cell_type != "code":
            continue
        cell.execution_count = None
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.outputs:
            output.pop("metadata", None)
            if output.output_type == "execute_result":
                output.execution_count = None
            if output.output_type in ("execute_result", "display_data"):
                output.metadata = nbformat.from_dict({})
    return notebook


def texts(notebook: NotebookNode) -> list[str]:
    """The text that each code cell printed or returned; of a picture its type."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            parts = []
            for output in cell.outputs:
                pictures = [kind for kind in output.get("data", {}) if kind.startswith("image/")]
                parts.append(output.get("text") or (pictures[0] if pictures else output["data"]["text/plain"]))
            found.append("".join(parts))
    return found


def main(arguments: list[str]) -> int:
    """Execute all notebooks, and store or compare their outputs."""
    stale = []
    for path in NOTEBOOKS:
        stored, new = nbformat.read(path, as_version=4), executed(path)
        if texts(stored) != texts(new):
            stale.append(path)
        if "--check" not in arguments:
            nbformat.write(new, path)
    for path in stale:
        print(f"{'differs' if '--check' in arguments else 'written'}: {path.relative_to(ROOT)}")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
