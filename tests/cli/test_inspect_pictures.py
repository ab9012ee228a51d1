"""The commands of `tangovlm inspect` that write a picture and a CSV file, and what they refuse."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from tangovlm.report import plot
from tests.cli.conftest import FRAMES, TOKENS_PER_FRAME, Run

COMMANDS = ("attention", "distribution", "norms", "clusters", "compare")


@pytest.mark.parametrize(
    ("command", "rows"),
    [
        ("attention", 2 * FRAMES * TOKENS_PER_FRAME),
        ("distribution", 2 * TOKENS_PER_FRAME),
        ("norms", (3 + 6) * 2),
        ("clusters", 2),
        ("compare", 6 * FRAMES),
    ],
)
def test_a_checkpoint_and_a_file(
    tangovlm_command: Run, checkpoint: Path, clip: Path, tmp_path: Path, command: str, rows: int
) -> None:
    given = (clip, "--model", checkpoint, "--output-dir", tmp_path / "new" / "folder", "--json")
    outcome = tangovlm_command("inspect", command, *given, *(["--retention", 0.3] if command == "clusters" else []))
    assert outcome.status == 0, outcome.err
    found = outcome.json
    assert (found["model"], found["clips"]) == (str(checkpoint), 1)
    assert len(list(csv.DictReader(Path(found["csv"]).read_text().splitlines()))) == rows
    assert Path(found["picture"]).name == f"{command}.png"
    with Image.open(found["picture"]) as picture:
        assert picture.width == 1000
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == [f"{command}.csv", f"{command}.png"]
    assert found["rows"]


def test_drawn_clips_of_the_embedded_model(tangovlm_command: Run, tmp_path: Path) -> None:
    outcome = tangovlm_command(
        "inspect",
        "distribution",
        "--drawn",
        2,
        "--frames",
        2,
        "--share",
        0.25,
        "--output-dir",
        tmp_path,
        "--no-picture",
    )
    assert outcome.status == 0, outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["distribution.csv"]
    assert "2 of the synthetic world" in outcome.err
    assert f"written: {tmp_path / 'distribution.csv'}" in outcome.err
    lines = [line.split() for line in outcome.out.splitlines()]
    assert [line[:3] for line in lines if line and line[0] in ("p-attn", "attn")] == [
        ["p-attn", "0.25", "16"], ["attn", "0.25", "16"],
    ]  # fmt: skip


def test_decay_needs_no_model(tangovlm_command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tangovlm.pipeline.load.load", lambda *_, **__: pytest.fail("a model was loaded"))
    arguments = ("inspect", "decay", "--base-time", 50, "--channels", 12, "--output-dir", tmp_path, "--json")
    found = tangovlm_command(*arguments).json
    assert {(row["axis"], row["base"]) for row in found["rows"]} == {
        ("time", 50.0), *(("space", base) for base in (10.0, 100.0, 1000.0, 10000.0)),
    }  # fmt: skip
    assert Path(found["picture"]).exists()


def test_one_saliency(tangovlm_command: Run, checkpoint: Path, clip: Path, tmp_path: Path) -> None:
    given = ("inspect", "attention", clip, "--model", checkpoint, "--no-picture", "--output-dir", tmp_path, "--json")
    assert [row["saliency"] for row in tangovlm_command(*given, "--saliency", "attn").json["rows"]] == ["attn"]
    tangovlm_command(*given, "--saliency", "mean-query").refused("mean-query", "llava-onevision", "choose another")


def test_methods_without_clusters(tangovlm_command: Run, checkpoint: Path, clip: Path, tmp_path: Path) -> None:
    given = ("inspect", "clusters", clip, "--model", checkpoint, "--output-dir", tmp_path, "--method", "topk")
    tangovlm_command(*given).refused("topk at retention 0.1", clip.name, "no clusters", "a method that merges them")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", COMMANDS)
def test_how_the_clip_was_decoded(
    tangovlm_command: Run, checkpoint: Path, clip: Path, tmp_path: Path, command: str
) -> None:
    given = ("inspect", command, clip, "--model", checkpoint, "--output-dir", tmp_path, "--no-picture", "--json")
    outcome = tangovlm_command(*given, "--frames", 64, *(["--retention", 0.02] if command == "clusters" else []))
    assert outcome.status == 0, outcome.err
    assert outcome.json["notes"][0] == f"{clip}: 64 frames were requested, the clip has 12: all are used"


def test_sinks_of_another_grid(tangovlm_command: Run, checkpoint: Path, clip: Path, tmp_path: Path) -> None:
    file = tmp_path / "sinks.json"
    file.write_text(json.dumps({"format": "tangovlm-sinks", "version": 1, "grid": [14, 14], "positions": [28]}))
    for command in ("attention", "norms"):
        given = ("inspect", command, clip, "--model", checkpoint, "--output-dir", tmp_path, "--sink-tokens", file)
        tangovlm_command(*given).refused("14 x 14", "4 x 4")


def test_a_layer_that_does_not_exist(tangovlm_command: Run, checkpoint: Path, clip: Path, tmp_path: Path) -> None:
    given = ("inspect", "norms", clip, "--model", checkpoint, "--output-dir", tmp_path, "--block", 3)
    tangovlm_command(*given).refused("block is 3", "1 to 2")


@pytest.fixture
def never_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    message = "a model was loaded before the mistake was found"
    monkeypatch.setattr("tangovlm.pipeline.load.load", lambda *_, **__: pytest.fail(message))


@pytest.mark.usefixtures("never_loaded")
class TestBeforeLoading:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_missing_file(self, tangovlm_command: Run, tmp_path: Path, command: str) -> None:
        given = ("inspect", command, tmp_path / "no.mp4", "--output-dir", tmp_path / "out")
        tangovlm_command(*given).refused("no.mp4")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("command", [*COMMANDS, "decay"])
    def test_missing_matplotlib(
        self, tangovlm_command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
    ) -> None:
        monkeypatch.setattr(plot, "find_spec", lambda _: None)
        outcome = tangovlm_command("inspect", command, "--output-dir", tmp_path)
        outcome.refused(f"inspect {command} needs matplotlib", "report", "give --no-picture")

    def test_methods_inside_the_model(self, tangovlm_command: Run, clip: Path, tmp_path: Path) -> None:
        for command in ("clusters", "compare"):
            for method in ("fastv", "tango+fastv"):
                given = ("inspect", command, clip, "--output-dir", tmp_path, "--method", method)
                tangovlm_command(*given).refused(method, "inside the language model")
        tangovlm_command("inspect", "clusters", "--method", "tengo").refused("tengo", "tango")
        tangovlm_command("inspect", "compare", "--method", "topk", "--method", "topk").refused("twice")

    def test_values(self, tangovlm_command: Run, clip: Path, tmp_path: Path) -> None:
        for command, option in (
            ("attention", "--top"), ("attention", "--show"), ("distribution", "--drawn"), ("norms", "--block"),
            ("clusters", "--frames"), ("compare", "--chunk-frames"),
        ):  # fmt: skip
            tangovlm_command("inspect", command, clip, "--output-dir", tmp_path, option, 0).refused(
                option, "at least 1"
            )
        tangovlm_command("inspect", "distribution", "--share", 2).refused("--share is 2", "(0, 1]")
        tangovlm_command("inspect", "clusters", "--retention", 0).refused("retention")
        tangovlm_command("inspect", "decay", "--base-time", 0, "--output-dir", tmp_path).refused("base 0")
        given = ("inspect", "decay", "--output-dir", tmp_path)
        tangovlm_command(*given, "--base-time", "inf").refused("base inf", "finite")
        tangovlm_command(*given, "--base-time", 5, "--base-time", 5).refused("base of time", "twice")
        tangovlm_command(*given, "--channels", 5).refused("channels is 5: give at least 6")
        tangovlm_command("inspect", "norms", "--fps", 1, "--output-dir", tmp_path).refused("fps", "no clips")

    def test_clips(self, tangovlm_command: Run, clip: Path, tmp_path: Path) -> None:
        tangovlm_command("inspect", "distribution", clip, clip).refused("twice")
        other = tmp_path / "other.mp4"
        other.write_bytes(clip.read_bytes())
        for command in ("attention", "compare"):
            tangovlm_command("inspect", command, clip, other).refused("one clip, but 2")

    def test_output(self, tangovlm_command: Run, clip: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        given = ("inspect", "attention", clip, "--output-dir")
        tangovlm_command(*given, tmp_path / "file").refused("--output-dir", "cannot be created")
        (tmp_path / "attention.csv").mkdir()
        tangovlm_command(*given, tmp_path).refused("--output-dir", "folder")
        (tmp_path / "norms.csv").write_bytes(clip.read_bytes())
        given = ("inspect", "norms", tmp_path / "norms.csv", "--output-dir", tmp_path)
        tangovlm_command(*given).refused("has the clip")
