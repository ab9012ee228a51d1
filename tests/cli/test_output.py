"""Where things are printed, and how."""

import io
import sys
import warnings
from pathlib import Path

import pytest
from transformers.utils import logging

import tangovlm
from tangovlm.cli.output import only_results, plain, show, stage_bars
from tangovlm.errors import InputError
from tangovlm.pipeline.load import VideoLLM
from tests.cli.conftest import Run


def test_chatter_of_libraries_never_reaches_stdout(
    tangovlm_command: Run, clip: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tangovlm.load

    def noisy(*arguments: object, **options: object) -> VideoLLM:
        print("loading!")
        warnings.warn("look out", UserWarning, stacklevel=1)
        logging.get_logger("transformers").warning("by the way")
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("tangovlm.pipeline.load.load", noisy)
    outcome = tangovlm_command("ask", clip, "What?", "--model", checkpoint, "--json", "--max-new-tokens", 2)
    assert outcome.out.count("\n") == 1
    assert "loading!" in outcome.err
    assert "look out" not in outcome.err
    assert "by the way" not in outcome.err


def test_settings_of_transformers_come_back() -> None:
    before = (logging.get_verbosity(), logging.is_progress_bar_enabled())
    with only_results():
        assert sys.stdout is sys.stderr
        assert not logging.is_progress_bar_enabled()
    with pytest.raises(ZeroDivisionError), only_results():
        raise ZeroDivisionError
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_embedded_model_says_once_what_it_knows(
    tangovlm_command: Run, clip: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tangovlm.pipeline.load.BUILTIN", checkpoint)
    outcome = tangovlm_command("ask", clip, "What?", "--compare", "--json", "--max-new-tokens", 2)
    assert outcome.err.count("only its synthetic world") == 1
    assert "--model" in outcome.err
    assert outcome.json["model"] == "tangovlm-tiny"


def test_embedded_model_says_before_it_answers_that_it_cannot_know(
    tangovlm_command: Run, clip: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*_: object, **__: object) -> None:
        raise InputError("too early")

    monkeypatch.setattr("tangovlm.pipeline.load.BUILTIN", checkpoint)
    monkeypatch.setattr("tangovlm.pipeline.ask.ask", ask)
    for model in ((), ("--model", "tangovlm-tiny")):
        first, second = tangovlm_command("ask", clip, "What?", *model).err.splitlines()
        assert first.startswith("note: the embedded model cannot know what this video shows: ")
        assert second == "tangovlm: too early"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("ask", "nowhere.mp4", "What?", "--json"), "nowhere.mp4"),
        (("ask", "--json"), "Missing argument"),
        (("ask", "a", "b", "--json", "--bogus"), "--bogus"),
        (("batch", "nowhere", "out", "--json"), "INPUT"),
        (("nothing", "--json"), "nothing"),
    ],
)
def test_errors_are_json_too(tangovlm_command: Run, arguments: tuple[str, ...], words: str) -> None:
    outcome = tangovlm_command(*arguments)
    outcome.refused(words)
    assert words in outcome.json["error"]
    assert tangovlm_command(*(each for each in arguments if each != "--json")).out == ""


def test_control_characters_are_taken_out() -> None:
    assert plain("a\x1b[2J\rb\n\tc\x9bd\ud800") == "a[2Jb\n\tcd"


def test_markup_and_long_lines_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    text = "[red]not markup[/red] " + "long " * 60
    show(text)
    assert capsys.readouterr().out == text + "\n"


def test_characters_that_stdout_lacks(tangovlm_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", narrow)
    from tangovlm.cli import main

    assert main(["methods"]) == 0
    narrow.flush()
    assert b"tango" in narrow.buffer.getvalue()  # type: ignore[attr-defined]


def test_no_bars_where_nobody_looks(capfd: pytest.CaptureFixture[str]) -> None:
    with stage_bars("x: ") as advance:
        advance("decode", 1, 2)
        advance("anything", 2, 2)
    assert capfd.readouterr() == ("", "")


def test_bars_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "xterm")
    with stage_bars("x: ") as advance:
        for stage in ("decode", "encode", "generate"):
            advance(stage, 1, 2)
    out, err = capsys.readouterr()
    assert out == ""
    assert all(f"x: {words}" in err for words in ("decoding frames", "encoding frames", "generating"))


def test_version_and_help(tangovlm_command: Run) -> None:
    assert tangovlm_command("--version").out == f"tangovlm {tangovlm.__version__}\n"
    for arguments in ((), ("--help",)):
        outcome = tangovlm_command(*arguments)
        assert outcome.status == 0
        assert "ask" in outcome.out
        assert "demo" in outcome.out
