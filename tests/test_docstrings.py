"""The examples in docstrings produce the results that they show; every public name has one."""

import doctest
import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest

import tangovlm
from tangovlm.tiny.clip import write_demo

PACKAGE = Path(tangovlm.__file__).parent
PUBLIC = [name for name in tangovlm.__all__ if name != "__version__"]


def modules() -> list[str]:
    """The modules that have examples which run."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        lines = re.findall(r"^ *>>> .*$", path.read_text(encoding="utf-8"), re.MULTILINE)
        if any("+SKIP" not in line for line in lines):
            parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
            found.append(".".join(part for part in parts if part != "__init__"))
    return found


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what `tangovlm demo` writes there."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "tangovlm-demo").mkdir()
    write_demo(folder / "tangovlm-demo" / "clip.mp4")
    return folder


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_has_a_worked_example(name: str) -> None:
    text = inspect.getdoc(getattr(tangovlm, name)) or ""
    _, found, examples = text.partition("\nExamples\n--------\n")
    assert found, f"tangovlm.{name} has no section Examples"
    assert doctest.DocTestParser().get_examples(examples)
    assert "+SKIP" not in examples
    # As a user writes it.
    assert ">>> import tangovlm" in examples


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", modules())
def test_examples(name: str, demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(demo)
    result = doctest.testmod(import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
