"""`tangovlm vlmeval`: what it refuses before VLMEvalKit is imported, which need not be installed."""

import importlib.util
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from tangovlm.evaluate.harness import versions
from tangovlm.evaluate.harness.vlmevalkit.installation import DISTRIBUTION
from tests.cli.conftest import Run

ASKED = ("vlmeval", "--model", "tangovlm-tiny", "--data", "Video-MME_32frame")


def installed(monkeypatch: pytest.MonkeyPatch, package: Path | None, version: str = "0.0.20") -> None:
    """Let VLMEvalKit seem to be installed there, or not at all."""
    find, of = importlib.util.find_spec, metadata.version

    def find_spec(name: str, *rest: Any) -> Any:
        if name != "vlmeval":
            return find(name, *rest)
        return None if package is None else importlib.util.spec_from_file_location(name, package / "__init__.py")

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    monkeypatch.setattr(versions, "version", lambda name: version if name == DISTRIBUTION else of(name))
    monkeypatch.setattr(metadata, "version", lambda name: version if name == DISTRIBUTION else of(name))


def a_package(folder: Path, version: str = "0.2rc1", script: str | None = "run.py") -> Path:
    """Files of a VLMEvalKit that cannot be run."""
    package = folder / "vlmeval"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"__version__ = '{version}'\n")
    if script is not None:
        (folder / script).write_text("")
    return package


def test_without_vlmevalkit(tangovlm_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, None)
    tangovlm_command(*ASKED).refused("VLMEvalKit is not installed: pip install ms-vlmeval==", "--vlmevalkit DIR")


def test_of_an_untested_version(tangovlm_command: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    installed(monkeypatch, a_package(tmp_path, script="vlmeval/run.py"), version="0.1.0")
    tangovlm_command(*ASKED).refused("ms-vlmeval 0.1.0 is not tested", "pip install ms-vlmeval==")


def test_a_checkout_of_an_untested_version(tangovlm_command: Run, tmp_path: Path) -> None:
    a_package(tmp_path, "0.3")
    tangovlm_command(*ASKED, "--vlmevalkit", str(tmp_path)).refused("has version 0.3, and 0.2rc1 is tested")


def test_no_checkout(tangovlm_command: Run, tmp_path: Path) -> None:
    tangovlm_command(*ASKED, "--vlmevalkit", str(tmp_path)).refused("has no vlmeval/__init__.py")


def test_a_checkout_without_its_script(tangovlm_command: Run, tmp_path: Path) -> None:
    a_package(tmp_path, script=None)
    tangovlm_command(*ASKED, "--vlmevalkit", str(tmp_path)).refused("has no run.py")


@pytest.mark.parametrize("variable", ["MMEVAL_ROOT", "PRED_FORMAT"])
def test_an_environment_that_changes_the_results(
    tangovlm_command: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    a_package(tmp_path)
    monkeypatch.setenv(variable, "json")
    tangovlm_command(*ASKED, "--vlmevalkit", str(tmp_path)).refused(f"{variable} is")


def test_a_checkout_that_cannot_be_imported(
    tangovlm_command: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (a_package(tmp_path) / "config.py").write_text("import of_no_package\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "vlmeval"]:
        monkeypatch.delitem(sys.modules, name)
    outcome = tangovlm_command(*ASKED, "--vlmevalkit", str(tmp_path), "--work-dir", str(tmp_path / "out"))
    sys.modules.pop("vlmeval", None)
    outcome.refused("VLMEvalKit 0.2rc1 cannot be imported (No module named 'of_no_package')")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--retention", "0"], "retention"),
        (["--method", "tangoo"], "tangoo"),
        (["--frames", "16"], "--frames is 16, but --data Video-MME_32frame has 32"),
        (["--data", "MLVU_MCQ"], "--data MLVU_MCQ has no number of frames: name MLVU_MCQ_32frame, or give --frames"),
        (["--limit", "0"], "--limit is 0"),
        (["--max-new-tokens", "0"], "max_new_tokens is 0"),
        (["--param", "neighbors"], "--param is 'neighbors': give key=value"),
        (["--param", "retention=0.2"], "--param cannot set retention: use --retention"),
        (["--param", "fps=1"], "presets take a number of frames"),
        (["--param", "naighbors=3"], "did you mean 'neighbors'"),
        (["--", "--data", "MVBench_32frame"], "--data cannot be passed to run.py"),
        (["--", "--use-vllm"], "--param backend=vllm"),
    ],
)
def test_refused_in_one_line(tangovlm_command: Run, arguments: list[str], words: str) -> None:
    tangovlm_command(*ASKED, *arguments).refused(words)
