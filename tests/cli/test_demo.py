"""`tangovlm demo`: the whole way, from its own clip to a picture."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from tangovlm.budget import count
from tangovlm.tiny import clip as clip_module
from tests.cli.conftest import FRAMES, TOKENS_PER_FRAME, Run

QUESTIONS = [("What color is the square?", "yellow"), ("Which way does it move?", "right")]
TOTAL = FRAMES * TOKENS_PER_FRAME


@pytest.fixture
def small_demo(clip: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model and a given clip in place of the embedded ones."""

    def write_demo(path: Path) -> list[tuple[str, str]]:
        shutil.copy(clip, path)
        return QUESTIONS

    monkeypatch.setattr("tangovlm.tiny.clip.write_demo", write_demo)
    monkeypatch.setattr("tangovlm.pipeline.load.BUILTIN", checkpoint)


@pytest.mark.usefixtures("small_demo")
def test_shows_both_answers_and_writes_its_files(tangovlm_command: Run, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "demo"
    outcome = tangovlm_command("demo", "--output-dir", folder)
    assert outcome.status == 0
    for question, truth in QUESTIONS:
        assert question in outcome.out
        assert truth in outcome.out
    for wanted in ("all tokens", "tango, 10 %", "of 2", "decode video (ms)", f"{TOTAL} of {TOTAL}", "kept.png"):
        assert wanted in outcome.out
    assert sorted(path.name for path in folder.iterdir()) == ["clip.mp4", "kept.png", "report.html"]
    assert Image.open(folder / "kept.png").format == "PNG"
    assert all(question in (folder / "report.html").read_text() for question, _ in QUESTIONS)


@pytest.mark.usefixtures("small_demo")
def test_json(tangovlm_command: Run, tmp_path: Path) -> None:
    outcome = tangovlm_command("demo", "--output-dir", tmp_path, "--json")
    assert outcome.out.count("\n") == 1
    assert [(entry["question"], entry["truth"]) for entry in outcome.json["questions"]] == QUESTIONS
    for entry in outcome.json["questions"]:
        assert entry["pruned"]["tokens_after"] == count(0.1, TOTAL)
        assert entry["unpruned"]["tokens_after"] == TOTAL
    assert Path(outcome.json["picture"]).is_file()


def test_folder_that_cannot_be_made(tangovlm_command: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    tangovlm_command("demo", "--output-dir", tmp_path / "file").refused("--output-dir")
    tangovlm_command("demo", "--output-dir", tmp_path / "file" / "in").refused("--output-dir")


def test_files_that_cannot_be_written(tangovlm_command: Run, tmp_path: Path) -> None:
    (tmp_path / "kept.png").mkdir()
    tangovlm_command("demo", "--output-dir", tmp_path).refused("--output-dir", "kept.png", "folder")


def test_embedded_model_on_its_own_clip(tangovlm_command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = clip_module.write_demo
    monkeypatch.setattr(clip_module, "write_demo", lambda path: real(path)[:2])
    outcome = tangovlm_command("demo", "--output-dir", tmp_path, "--json")
    assert outcome.status == 0
    assert outcome.err.count("only its synthetic world") == 1
    assert len(outcome.json["questions"]) == 2
    for entry in outcome.json["questions"]:
        assert entry["pruned"]["model"] == "tangovlm-tiny"
        assert (entry["unpruned"]["tokens_after"], entry["pruned"]["tokens_after"]) == (1024, 102)
        assert entry["pruned"]["answer"]
