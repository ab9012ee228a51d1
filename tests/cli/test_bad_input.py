"""A user's mistake costs one line and status 2, and leaves nothing behind."""

import io
import json
import math
import os
import shutil
import subprocess
import sys
import wave
from pathlib import Path

import av
import pytest
from safetensors.torch import load_file, save_file

from tangovlm.cli import main
from tests.cli.conftest import Outcome, Run


@pytest.fixture
def never_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if a model would be loaded: cheap checks come first."""

    def load(*_: object, **__: object) -> None:
        pytest.fail("a model was loaded before the mistake was found")

    monkeypatch.setattr("tangovlm.pipeline.load.load", load)


@pytest.mark.usefixtures("never_loaded")
class TestBeforeLoading:
    @pytest.mark.parametrize("retention", ["0", "1.5", "nan", "-0.1", "inf"])
    def test_retention(self, tangovlm_command: Run, clip: Path, retention: str) -> None:
        tangovlm_command("ask", clip, "What?", "--retention", retention).refused("retention")

    def test_retention_that_is_no_number(self, tangovlm_command: Run, clip: Path) -> None:
        tangovlm_command("ask", clip, "What?", "--retention", "much").refused("--retention", "tangovlm ask --help")

    @pytest.mark.parametrize("question", ["", "  \n "])
    def test_empty_question(self, tangovlm_command: Run, clip: Path, question: str) -> None:
        tangovlm_command("ask", clip, question).refused("question is empty")

    def test_question_of_bytes_that_are_no_text(self, tangovlm_command: Run, clip: Path) -> None:
        tangovlm_command("ask", clip, os.fsdecode(b"What is \xff?")).refused("question", "UTF-8")

    def test_unknown_method(self, tangovlm_command: Run, clip: Path) -> None:
        tangovlm_command("ask", clip, "What?", "--method", "magic").refused("magic", "tango")

    @pytest.mark.parametrize("option", ["--frames", "--max-new-tokens", "--max-frame-pixels"])
    @pytest.mark.parametrize("value", ["0", "-3"])
    def test_counts(self, tangovlm_command: Run, clip: Path, option: str, value: str) -> None:
        tangovlm_command("ask", clip, "What?", option, value).refused(option, value)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (("--start", 1.5), ("clip.mp4", "the start is 1.5 s", "ends at 1.50 s")),
            (("--start", "1:00:00"), ("the start is 3600 s",)),
            (("--start", 1, "--end", 0.5), ("the end (0.5 s) is not after the start (1 s)",)),
            (("--end", 0), ("the end (0 s)",)),
            (("--start", "soon"), ("--start is 'soon'", "1:30")),
            (("--start=-1",), ("--start is '-1'",)),
            (("--end", "nan"), ("--end is 'nan'",)),
            (("--fps", 0), ("--fps is 0",)),
            (("--fps", "nan"), ("--fps is nan",)),
            (("--fps", "inf"), ("--fps is inf",)),
            (("--fps=-2",), ("--fps is -2",)),
            (("--fps", "many"), ("'--fps': it must be a number (see",)),
            (("--fps", 1, "--frames", 4), ("frames and fps are both given",)),
            (("--max-frames", 4), ("max_frames is given without fps",)),
            (("--max-frames", 0, "--fps", 1), ("--max-frames is 0",)),
            (("--stream", 3), ("stream=3 is none of its video streams",)),
            (("--frames", "2.5"), ("'--frames': it must be a whole number (see",)),
            (("--seek", "fast"), ("'--seek': 'fast' is not one of 'exact', 'keyframe'",)),
            (("--stream=-1",), ("stream=-1 is none of its video streams",)),
        ],
    )
    def test_frames_to_take(
        self, tangovlm_command: Run, clip: Path, tmp_path: Path, options: tuple[object, ...], words: tuple[str, ...]
    ) -> None:
        page, sinks = tmp_path / "page.html", tmp_path / "sinks.json"
        tangovlm_command("ask", clip, "What?", *options, "--report", page, "--json").refused(*words)
        tangovlm_command("inspect", "sinks", clip, *options, "--out", sinks).refused(*words)
        assert not list(tmp_path.iterdir())

    def test_standard_input(self, tangovlm_command: Run, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def ask(data: bytes, *words: str, options: tuple[str, ...] = ()) -> None:
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
            tangovlm_command("ask", "-", "What?", *options).refused(*words)

        ask(b"", "standard input: there is no data", "ended early")
        ask(clip.read_bytes()[:900], "standard input (900 bytes)", "truncated")
        ask(b"no video at all", "standard input (15 bytes): not a video")
        ask(clip.read_bytes(), "standard input", "the start is 60 s", options=("--start", "1:00"))
        ask(clip.read_bytes(), "--chat reads questions from standard input", options=("--chat",))
        monkeypatch.setattr("sys.stdin", None)
        tangovlm_command("ask", "-", "What?").refused("nothing is piped to it")
        tangovlm_command("inspect", "sinks", "-").refused("No such file")

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (("--frames", "0"), ("--frames is 0",)),
            (("--end", "soon"), ("--end is 'soon'",)),
            (("--retention", "7"), ("retention", "7")),
            (("--max-new-tokens", "0"), ("--max-new-tokens is 0",)),
            (("--device", "abacus"), ("--device abacus",)),
            (("--report", "no/folder/page.html"), ("--report",)),
            (("--sink-tokens", "none.json"), ("none.json",)),
            (("--chat", "--compare"), ("--chat", "--compare")),
        ],
    )
    def test_options_are_checked_before_standard_input_is_read(
        self, tangovlm_command: Run, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], words: tuple[str, ...]
    ) -> None:
        class Untouched(io.RawIOBase):
            def readable(self) -> bool:
                return True

            def readinto(self, _buffer: object) -> int:
                raise AssertionError("standard input is read")

        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(Untouched())))
        tangovlm_command("ask", "-", "What?", *options).refused(*words)

    def test_folders(self, tangovlm_command: Run, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("no picture")
        tangovlm_command("ask", tmp_path, "What?").refused("a folder without pictures")
        (tmp_path / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        tangovlm_command("ask", tmp_path, "What?", "--stream", 0).refused("pictures have no streams")
        tangovlm_command("ask", tmp_path, "What?", "--start", 1).refused("the video ends at 1.00 s")

    @pytest.mark.parametrize("option", ["--saliency", "--dtype"])
    def test_choices(self, tangovlm_command: Run, clip: Path, option: str) -> None:
        tangovlm_command("ask", clip, "What?", option, "other").refused(option, "other")

    def test_device(self, tangovlm_command: Run, clip: Path) -> None:
        tangovlm_command("ask", clip, "What?", "--device", "abacus").refused("--device", "abacus")

    def test_report_without_a_place(self, tangovlm_command: Run, clip: Path, tmp_path: Path) -> None:
        tangovlm_command("ask", clip, "What?", "--report", tmp_path / "no" / "x.html").refused("--report", "make it")
        tangovlm_command("ask", clip, "What?", "--report", tmp_path).refused("--report", "folder")

    def test_report_with_a_name_that_is_too_long(self, tangovlm_command: Run, clip: Path, tmp_path: Path) -> None:
        tangovlm_command("ask", clip, "What?", "--report", tmp_path / ("x" * 300)).refused("--report", "too long")

    @pytest.mark.parametrize("name", ["x.pdf", "x", "html"])
    def test_report_that_is_not_named_as_a_page(
        self, tangovlm_command: Run, clip: Path, tmp_path: Path, name: str
    ) -> None:
        tangovlm_command("ask", clip, "What?", "--report", tmp_path / name).refused("--report", "ends in .html")
        assert not (tmp_path / name).exists()

    def test_report_in_place_of_the_video(self, tangovlm_command: Run, clip: Path, tmp_path: Path) -> None:
        link = tmp_path / "link.mp4"
        link.symlink_to(clip)
        for report in (clip, link):
            tangovlm_command("ask", clip, "What?", "--report", report).refused("--report", "the video itself")

    def test_retentions_of_the_report(self, tangovlm_command: Run, clip: Path, tmp_path: Path) -> None:
        asked = ("ask", clip, "What?", "--report-retentions")
        tangovlm_command(*asked, "0.1").refused("--report-retentions", "name the file")
        wrong = {"0.1;0.2": "such as", "": "such as", "0.1,": "such as", "0.2,1.5": "(0, 1]", "0": "(0, 1]"}
        for text, word in wrong.items():
            tangovlm_command(*asked, text, "--report", tmp_path / "x.html").refused(word)
        assert list(tmp_path.iterdir()) == []

    def test_missing_file(self, tangovlm_command: Run, tmp_path: Path) -> None:
        tangovlm_command("ask", tmp_path / "no.mp4", "What?").refused("no.mp4")
        tangovlm_command("ask", "", "What?").refused("path of the video is empty")

    def test_name_with_a_line_break(self, tangovlm_command: Run, tmp_path: Path) -> None:
        tangovlm_command("ask", f"{tmp_path}/no\n\x1b[31mfile.mp4", "What?").refused("no [31mfile.mp4")

    def test_url(self, tangovlm_command: Run) -> None:
        tangovlm_command("ask", "https://example.org/clip.mp4", "What?").refused("URL")

    def test_not_a_video(self, tangovlm_command: Run, tmp_path: Path) -> None:
        text = tmp_path / "text.mp4"
        text.write_text("no video at all")
        tangovlm_command("ask", text, "What?").refused("text.mp4")

    def test_truncated(self, tangovlm_command: Run, clip: Path, tmp_path: Path) -> None:
        cut = tmp_path / "cut.mp4"
        cut.write_bytes(clip.read_bytes()[:300])
        tangovlm_command("ask", cut, "What?").refused("cut.mp4")

    def test_audio_only(self, tangovlm_command: Run, tmp_path: Path) -> None:
        sound = tmp_path / "sound.wav"
        with wave.open(str(sound), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes(bytes(1600))
        tangovlm_command("ask", sound, "What?").refused("sound.wav")

    def test_playlist(self, tangovlm_command: Run, clip: Path, tmp_path: Path) -> None:
        playlist = tmp_path / "list.mp4"
        playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{clip}\n#EXT-X-ENDLIST\n")
        tangovlm_command("ask", playlist, "What?").refused("list.mp4")

    def test_usage(self, tangovlm_command: Run, clip: Path) -> None:
        tangovlm_command("ask").refused("tangovlm ask --help")
        tangovlm_command("ask", clip).refused("question")
        tangovlm_command("ask", clip, "What?", "--bogus").refused("--bogus")
        tangovlm_command("bogus").refused("bogus", "tangovlm --help")


def _index_in_front(clip: Path, target: Path) -> None:
    """Copy the clip with its index before the pictures, where it survives a cut."""
    with av.open(str(clip)) as source, av.open(str(target), "w", options={"movflags": "faststart"}) as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)


def test_damage_found_while_decoding(tangovlm_command: Run, clip: Path, checkpoint: Path, tmp_path: Path) -> None:
    page, cut = tmp_path / "report.html", tmp_path / "cut.mp4"
    page.write_text("of yesterday")
    _index_in_front(clip, cut)
    cut.write_bytes(cut.read_bytes()[: -cut.stat().st_size // 3])
    tangovlm_command("ask", cut, "What?", "--model", checkpoint, "--report", page).refused("cut.mp4")
    assert page.read_text() == "of yesterday"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.mp4", "report.html"]


def test_missing_model(tangovlm_command: Run, clip: Path, tmp_path: Path) -> None:
    tangovlm_command("ask", clip, "What?", "--model", tmp_path / "no").refused(str(tmp_path / "no"))


@pytest.mark.parametrize("weights", [None, b"", b"x" * 100])
def test_damaged_checkpoint(
    tangovlm_command: Run, clip: Path, checkpoint: Path, tmp_path: Path, weights: bytes | None
) -> None:
    broken = shutil.copytree(checkpoint, tmp_path / "broken")
    (broken / "model.safetensors").unlink()
    if weights is not None:
        (broken / "model.safetensors").write_bytes(weights)
    tangovlm_command("ask", clip, "What?", "--model", broken).refused("cannot load", "broken")


@pytest.mark.parametrize("part", ["multi_modal_projector", "language_model"])
def test_weights_that_are_nan(tangovlm_command: Run, clip: Path, checkpoint: Path, tmp_path: Path, part: str) -> None:
    broken = shutil.copytree(checkpoint, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    spoiled = {name: tensor * math.nan if part in name else tensor for name, tensor in weights.items()}
    save_file(spoiled, broken / "model.safetensors", metadata={"format": "pt"})
    page = tmp_path / "report.html"
    tangovlm_command("ask", clip, "What?", "--model", broken, "--report", page, "--json").refused("NaN", "check")
    assert not page.exists()


def test_missing_head_weights(tangovlm_command: Run, clip: Path, checkpoint: Path, tmp_path: Path) -> None:
    arguments = ("--model", checkpoint, "--head-weights", tmp_path / "no.safetensors")
    tangovlm_command("ask", clip, "What?", *arguments).refused("no.safetensors", "--head-weights")


def test_a_limit_for_frames_of_one_size(tangovlm_command: Run, clip: Path, checkpoint: Path) -> None:
    arguments = ("--model", checkpoint, "--max-frame-pixels", 448 * 448)
    tangovlm_command("ask", clip, "What?", *arguments).refused("max_frame_pixels is 200704", "one size")
    tangovlm_command("inspect", "sinks", clip, *arguments).refused("max_frame_pixels is 200704", "one size")


def test_unsupported_architecture(tangovlm_command: Run, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["BertModel"], "model_type": "bert"}))
    tangovlm_command("ask", clip, "What?", "--model", tmp_path).refused("BertModel", "LlavaOnevision")


def test_failed_report_keeps_the_old_one(
    tangovlm_command: Run, clip: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "report.html"
    page.write_text("of yesterday")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    arguments = ("ask", clip, "What?", "--model", checkpoint, "--report", page, "--max-new-tokens", 2, "--json")
    outcome = tangovlm_command(*arguments)
    last = outcome.err.splitlines(keepends=True)[-1]
    Outcome(outcome.status, outcome.out, last, asked_json=True).refused("No space left on device")
    assert page.read_text() == "of yesterday"
    assert os.listdir(tmp_path) == ["report.html"]


def test_own_faults_are_not_hidden(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("tangovlm.pipeline.load.load", load)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["ask", str(clip), "What?"])


def test_interruption_is_one_line(tangovlm_command: Run, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tangovlm.pipeline.load.load", load)
    outcome = tangovlm_command("ask", clip, "What?")
    assert (outcome.status, outcome.out, outcome.err) == (130, "", "tangovlm: interrupted\n")


def test_status_of_the_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tangovlm", "ask", str(tmp_path / "no.mp4"), "What?", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    Outcome(done.returncode, done.stdout, done.stderr, asked_json=True).refused("no.mp4")
