"""The comparison of transformers' own model tests, on a checkout of three tests that is made here."""

import importlib
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
import transformers

import tangovlm
from tangovlm.selfcheck.twins.common.parts import RandomWords, Video
from tangovlm.selfcheck.twins.llava_onevision import LlavaOnevisionTwin

ROOT = Path(__file__).resolve().parents[2]
HEAD = """
from tangovlm.selfcheck.twins.llava_onevision import LlavaOnevisionTwin

def model():
    return LlavaOnevisionTwin().model
"""
TESTS = """
from pathlib import Path

import pytest

def test_passes():
    assert model().config is not None

def test_fails_alike():
    model()
    raise RuntimeError("neither with nor without")

def test_fails_otherwise():
    raise ValueError if "generate" in vars(model()) else KeyError

def test_notices():
    assert "generate" not in vars(model())

def test_notices_of_a_loaded_model(tmp_path):
    made = model()
    made.save_pretrained(tmp_path)
    assert "generate" not in vars(type(made).from_pretrained(tmp_path))

def test_varies():
    model()
    runs = Path("runs")
    before = len(runs.read_text()) if runs.exists() else 0
    runs.write_text("x" * (before + 1))
    # The first run has something attached, the second is the stock one, and the third the stock one again.
    assert before == 1

@pytest.mark.skip(reason="as ever")
def test_is_skipped():
    pass

@pytest.mark.xfail
def test_is_expected_to_fail():
    raise RuntimeError
"""


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("upstream", ROOT / "scripts" / "upstream_model_tests.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def checkout(folder: Path, tests: str, release: str = transformers.__version__) -> Path:
    source, models = folder / "src" / "transformers", folder / "tests" / "models" / "llava_onevision"
    source.mkdir(parents=True)
    (source / "__init__.py").write_text(f'__version__ = "{release}"\n', encoding="utf-8")
    models.mkdir(parents=True)
    (models / "test_modeling_llava_onevision.py").write_text(tests, encoding="utf-8")
    (folder / "pyproject.toml").write_text("[tool.pytest.ini_options]\n", encoding="utf-8")
    return folder


def compared(folder: Path) -> int:
    arguments = [str(folder), "--families", "llava_onevision", "--output", str(folder / "results.json")]
    return int(script().main(arguments))


def test_differences_are_found_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compared(checkout(tmp_path, HEAD + TESTS)) == 1
    printed = capsys.readouterr().out
    entry = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))[transformers.__version__]
    stock, attached = entry["llava_onevision"]["stock"], entry["llava_onevision"]["attached"]
    assert stock == {"passed": 4, "failed": 2}
    assert attached["models"] == 7
    assert attached["refused"] == 0
    names = sorted(test.split("::")[1] for test in attached["differences"])
    assert names == ["test_fails_otherwise", "test_notices", "test_notices_of_a_loaded_model"]
    assert [test.split("::")[1] for test in attached["unsteady"]] == ["test_varies"]
    assert "| `llava_onevision` | 8 | 6 | 4 |" in printed
    assert "test_fails_otherwise: stock failed KeyError, attached failed ValueError" in printed
    assert "test_varies: varies on the stock model" in printed
    assert "test_fails_alike" not in printed
    # What is in the file is not run again.
    assert compared(tmp_path) == 1
    assert "already" in capsys.readouterr().err


def test_a_run_that_attached_nothing_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compared(checkout(tmp_path, "def test_without_a_model():\n    pass\n")) == 2
    # Lines of progress may stand in front.
    message = capsys.readouterr().err.splitlines()[-1]
    assert message == "error: llava_onevision: its 1 tests attached no model, so nothing was compared"
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))[transformers.__version__] == {}


def test_tests_that_cannot_be_collected_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compared(checkout(tmp_path, "import no_such_package\n")) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: llava_onevision, attached: pytest ended with status 2: ")
    assert "No module named 'no_such_package'" in message


@pytest.mark.parametrize(("release", "tests"), [("4.0.0", True), (transformers.__version__, False)])
def test_another_folder_is_refused_in_one_line(
    release: str, tests: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = checkout(tmp_path, HEAD, release)
    if not tests:
        (folder / "tests").rename(folder / "elsewhere")
    assert compared(folder) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert (f"git checkout v{transformers.__version__}" if tests else "has no tests/models") in message


def test_a_method_that_keeps_all_tokens_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    keep_all = importlib.import_module("upstream_plugin").KeepAll()
    twin = LlavaOnevisionTwin()
    inputs = twin.inputs([(RandomWords(5, 0), Video(3, 1), RandomWords(2, 2))])
    with torch.no_grad():
        stock = twin.model(**inputs).logits
        with tangovlm.attach(twin.model, keep_all) as session:
            logits = twin.model(**inputs).logits
    assert [(video.tokens_before, video.tokens_after, video.method) for video in session.report.videos] == [
        (27, 27, "keep-all")
    ]
    torch.testing.assert_close(logits, stock)
