"""`tangovlm batch` on real clips and a random model, in transformers; other engines are tested in tests/serve."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import av
import numpy as np
import pytest

from tangovlm.batch import settings
from tangovlm.batch.engine import EngineDiedError
from tangovlm.budget import count
from tangovlm.errors import InputError
from tangovlm.machine.installation import install_command
from tests.cli.conftest import FRAMES, TOKENS_PER_FRAME, Run

TOTAL = FRAMES * TOKENS_PER_FRAME


@pytest.fixture
def source(clip: Path, tmp_path: Path) -> Path:
    """Five rows: two that can be answered, a text in place of a video, a missing one, and no JSON."""
    shutil.copy(clip, tmp_path / "clip.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    rows = [
        {"id": "a", "video": "clip.mp4", "question": "What moves?"},
        {"id": "b", "video": "clip.mp4", "question": "Where?", "retention": 0.5, "max_new_tokens": 2},
        {"id": "c", "video": "text.mp4", "question": "What moves?"},
        {"id": "d", "video": "missing.mp4", "question": "What moves?"},
    ]
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "no JSON\n")
    return path


@pytest.fixture
def arguments(source: Path, checkpoint: Path, tmp_path: Path) -> list[object]:
    return [
        "batch", source, tmp_path / "out.jsonl", "--model", checkpoint, "--engine", "transformers", "--video-root",
        tmp_path, "--max-new-tokens", 4,
    ]  # fmt: skip


def write_still(path: Path) -> Path:
    """Eight equal frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=4)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for _ in range(8):
            picture = np.full((64, 96, 3), 90, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def rows(path: Path) -> dict[Any, dict[str, Any]]:
    """Rows of a file of answers by their ids, each once."""
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert max(Counter(row["id"] for row in found).values()) == 1
    return {row["id"]: row for row in found}


def test_answers_and_errors(tangovlm_command: Run, arguments: list[object], clip: Path, tmp_path: Path) -> None:
    outcome = tangovlm_command(*arguments, "--json")
    assert outcome.status == 1
    assert outcome.out.count("\n") == 1
    assert {name: outcome.json[name] for name in ("rows", "asked", "answered", "failed")} == {
        "rows": 5, "asked": 5, "answered": 2, "failed": 3,
    }  # fmt: skip
    assert "2 rows answered, 3 failed; --retry-failed" in outcome.err
    reasons = [line.split(": ")[1] for line in outcome.err.splitlines() if line.startswith("failed: ")]
    assert sorted(reasons) == ["c", "d", "line 5"]
    found = rows(tmp_path / "out.jsonl")
    assert (found["a"]["tokens_before"], found["a"]["tokens_after"]) == (TOTAL, count(0.1, TOTAL))
    assert (found["b"]["tokens_after"], found["b"]["retention"]) == (TOTAL // 2, 0.5)
    for name, words in (("c", "not a video"), ("d", "No such file"), ("line 5", "no JSON object")):
        assert words in found[name]["error"]
    asked = tangovlm_command("ask", clip, "What moves?", "--model", arguments[4], "--max-new-tokens", 4, "--json").json
    for name in ("answer", "frames", "frame_times_s", "notes"):
        assert found["a"][name] == asked[name], name
    times = found["a"]["frame_times_s"]
    assert (len(times), times[0], times[-1]) == (FRAMES, 0.0, 11 / 8)
    assert found["a"]["timings_ms"].keys() == asked["timings_ms"].keys()
    assert found["a"]["timings_ms"]["decode"] > 0 and found["a"]["timings_ms"]["prefill"] > 0
    again = tangovlm_command(*arguments, "--allow-failures", "--json")
    assert (again.status, again.json["asked"], again.json["failed"]) == (0, 0, 3)
    assert "failed: d: " in again.err and tangovlm_command(*arguments).status == 1


def test_csv(tangovlm_command: Run, arguments: list[object], tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text('video,question,id\nclip.mp4,"What moves, and where?",a\nclip.mp4,Where?,\n')
    outcome = tangovlm_command("batch", table, *arguments[2:])
    assert (outcome.status, outcome.out) == (0, "")
    assert "failed: " not in outcome.err
    found = rows(tmp_path / "out.jsonl")
    assert [row["question"] for row in found.values()] == ["What moves, and where?", "Where?"]
    assert list(found) == ["a", 3]
    # The name implies the format, and the option overrides it.
    target = tmp_path / "other.jsonl"
    tangovlm_command("batch", table, target, *arguments[3:], "--format", "jsonl").refused("read as JSON lines; line 1")
    shutil.copy(table, tmp_path / "table")
    tangovlm_command("batch", tmp_path / "table", target, *arguments[3:]).refused("read as JSON lines; line 1")
    assert not target.exists()
    assert tangovlm_command("batch", tmp_path / "table", target, *arguments[3:], "--format", "csv").status == 0


def test_a_column_that_is_likely_misspelt(tangovlm_command: Run, arguments: list[object], tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("video,question,retenton,truth\nclip.mp4,What?,0.5,a\nclip.mp4,Where?,0.5,b\n")
    outcome = tangovlm_command("batch", table, *arguments[2:], "--json")
    note = f"{table}: the entry 'retenton' of rows is ignored: 'retention' is read"
    assert outcome.err.count(f"note: {note}") == 1
    assert outcome.json["notes"] == [note]


def test_a_file_that_is_no_table_is_refused_before_anything_runs(
    tangovlm_command: Run, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tangovlm.pipeline.load.load", lambda *_, **__: pytest.fail("a model was loaded"))
    (tmp_path / "in.csv").write_text("video,text\nclip.mp4,What?\n")
    target = tmp_path / "out.jsonl"
    for source, words in ((clip, "is not text"), (tmp_path / "in.csv", "no column 'question'")):
        for engine in (("--engine", "transformers"), ("--server", "http://127.0.0.1:9")):
            tangovlm_command("batch", source, target, *engine).refused(str(source), words)
    assert not target.exists()


def test_going_on(
    tangovlm_command: Run, arguments: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.jsonl"
    assert tangovlm_command(*arguments, "--limit", 1).status == 0
    first = target.read_bytes()
    assert list(rows(target)) == ["a"]
    assert tangovlm_command(*arguments, "--json").json["asked"] == 4
    whole = target.read_bytes()
    assert whole.startswith(first)
    shutil.copy(tmp_path / "clip.mp4", tmp_path / "missing.mp4")
    assert tangovlm_command(*arguments, "--retry-failed", "--json").json["failed"] == 2
    assert "answer" in rows(target)["d"]
    monkeypatch.setattr("tangovlm.pipeline.load.load", lambda *_, **__: pytest.fail("a model was loaded for nothing"))
    last = target.read_bytes()
    assert tangovlm_command(*arguments, "--json").json["asked"] == 0
    assert target.read_bytes() == last


def test_kill_9(tangovlm_command: Run, clip: Path, checkpoint: Path, tmp_path: Path) -> None:
    many, source, target = 400, tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"video": str(clip), "question": f"What? {n}"}) + "\n" for n in range(many)))
    command = ["batch", str(source), str(target), "--model", str(checkpoint), "--engine", "transformers"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tangovlm", *command],
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    while process.poll() is None and not (target.exists() and target.stat().st_size > 0):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed = target.read_bytes()
    whole = killed[: killed.rfind(b"\n") + 1]
    answered = whole.count(b"\n")
    limit = answered + 5
    outcome = tangovlm_command(*command, "--limit", limit, "--json")
    assert outcome.json["asked"] == 5
    assert target.read_bytes().startswith(whole)
    assert sorted(rows(target)) == list(range(1, limit + 1))


def lacking(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let modules seem not to be installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in names else find(name, *rest))


def test_without_vllm_it_is_transformers(
    tangovlm_command: Run, arguments: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking(monkeypatch, "vllm")
    outcome = tangovlm_command(*arguments[:5], *arguments[7:])
    assert outcome.status == 1
    assert outcome.err.count("answering with transformers, one clip after another: vLLM is not installed") == 1


def test_an_architecture_that_the_plug_in_does_not_know(
    tangovlm_command: Run, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: name == "vllm" or find(name, *rest))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"architectures": ["LlavaForConditionalGeneration"]}')
    target = tmp_path / "out.jsonl"
    for more in ([], ["--ray"]):
        outcome = tangovlm_command("batch", source, target, "--engine", "vllm", "--model", tmp_path / "model", *more)
        outcome.refused("does not know LlavaForConditionalGeneration", "--engine transformers")
    tangovlm_command("batch", source, target, "--engine", "vllm", "--device", "cpu").refused("--device", "vLLM")
    tangovlm_command("batch", source, target, "--engine", "vllm", "--method", "fastv").refused("fastv", "inside")
    assert not target.exists()


def test_rows_with_frames_of_their_own(
    tangovlm_command: Run, arguments: list[object], clip: Path, tmp_path: Path
) -> None:
    """12 frames, 8 per second."""
    table = tmp_path / "table.csv"
    table.write_text("video,question,start_s,frames\nclip.mp4,What?,0:01,\nclip.mp4,Where?,,2\nclip.mp4,Who?,7,\n")
    outcome = tangovlm_command("batch", table, *arguments[2:], "--fps", 4, "--end", 1.25, "--allow-failures")
    assert outcome.status == 0
    assert "rows of" in outcome.err and "choose which frames are taken: start_s" in outcome.err
    found = rows(tmp_path / "out.jsonl")
    assert found[2]["frame_times_s"] == [1.0]
    assert found[2]["settings"] == {"fps": 4.0, "start_s": 1.0, "end_s": 1.25}
    assert found[3]["frame_times_s"] == [0.0, 1.125]
    assert found[3]["settings"] == {"frames": 2, "end_s": 1.25}
    assert "the end (1.25 s) is not after the start (7 s)" in found["line 4"]["error"]


@pytest.mark.parametrize(
    "change",
    [("--frames", 2), ("--start", 0.5), ("--max-new-tokens", 3), ("--saliency", "attn"), ("--method", "uniform")],
)
def test_another_command_goes_on_with_another_file(
    tangovlm_command: Run, arguments: list[object], tmp_path: Path, change: tuple[object, ...]
) -> None:
    assert tangovlm_command(*arguments, "--limit", 1).status == 0
    before = (tmp_path / "out.jsonl").read_bytes()
    tangovlm_command(*arguments, *change).refused("'a'", "settings", "choose another OUTPUT")
    assert (tmp_path / "out.jsonl").read_bytes() == before


def test_an_engine_that_dies(
    tangovlm_command: Run, arguments: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dead:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def answer(self, _tasks: Iterator[object]) -> NoReturn:
            raise EngineDiedError("vLLM", 3, "out of memory")

    monkeypatch.setattr(settings.Settings, "build", Dead)
    outcome = tangovlm_command(*arguments)
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err == (
        "tangovlm: vLLM died with 3 rows in progress (out of memory): give the command again, which goes on from here\n"
    )
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("words", "more"),
    [
        (("retention", "7"), ["--retention", "7"]),
        (("tengo", "tango"), ["--method", "tengo"]),
        (("--frames",), ["--frames", "0"]),
        (("--fps is 0",), ["--fps", "0"]),
        (("frames and fps",), ["--fps", "1", "--frames", "2"]),
        (("--end is 'soon'",), ["--end", "soon"]),
        (("--limit",), ["--limit", "0"]),
        (("--concurrency",), ["--concurrency", "0"]),
        (("--workers",), ["--workers", "0"]),
        (("--max-new-tokens",), ["--max-new-tokens", "0"]),
        (("--device", "abacus"), ["--device", "abacus"]),
        (("--engine",), ["--engine", "steam"]),
        (("--max-num-seqs", "vLLM"), ["--", "--max-num-seqs", "2"]),
        (("Ray is not installed", install_command("ray")), ["--ray"]),
        (("vLLM is not installed", install_command("vllm")), ["--engine", "vllm"]),
        (("--server", "URL"), ["--server", "127.0.0.1:8000"]),
        (("--method", "--server"), ["--server", "http://127.0.0.1:9", "--method", "tango"]),
        (("--ray", "--server"), ["--server", "http://127.0.0.1:9", "--ray"]),
        (("retention",), ["--server", "http://127.0.0.1:9", "--retention", "2"]),
        (("comes twice",), ["--limit", "6"]),
    ],
)
def test_mistakes_cost_one_line(
    tangovlm_command: Run, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: Any, more: list[str]
) -> None:
    lacking(monkeypatch, "vllm", "ray")
    monkeypatch.setattr(
        "tangovlm.pipeline.load.load", lambda *_, **__: pytest.fail("a model was loaded before the mistake")
    )
    with source.open("a") as file:
        file.write(json.dumps({"id": "a", "video": "clip.mp4", "question": "Twice?"}) + "\n")
    engine = [] if {"--server", "--engine"} & set(more) else ["--engine", "transformers"]
    tangovlm_command("batch", source, tmp_path / "out.jsonl", *engine, *more).refused(*words)
    assert not (tmp_path / "out.jsonl").exists()


def test_places(tangovlm_command: Run, arguments: list[object], source: Path, tmp_path: Path) -> None:
    tangovlm_command("batch", tmp_path / "none", *arguments[2:]).refused("INPUT", "is not a file")
    tangovlm_command("batch", tmp_path, *arguments[2:]).refused("INPUT", "is not a file")
    tangovlm_command("batch", source, source, *arguments[3:]).refused("OUTPUT", "INPUT itself")
    tangovlm_command("batch", source, tmp_path, *arguments[3:]).refused("OUTPUT", "folder")
    tangovlm_command("batch", source, tmp_path / "no" / "out", *arguments[3:]).refused("OUTPUT", "no folder")
    before = source.read_bytes()
    tangovlm_command("batch", arguments[2], source).refused("is not a file")
    assert source.read_bytes() == before


def test_a_server_that_never_comes(tangovlm_command: Run, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    outcome = tangovlm_command("batch", source, target, "--server", "http://127.0.0.1:9", "--give-up", 0, "--json")
    assert outcome.status == 1
    assert outcome.json["error"].startswith("the server http://127.0.0.1:9 has not answered")
    told = outcome.err.splitlines()
    assert "waiting for it" in told[0]
    assert told[1].startswith("tangovlm: the server http://127.0.0.1:9 has not answered")
    assert len(told) == 2


def test_adaptive_counts(
    tangovlm_command: Run, arguments: list[object], tmp_path: Path, large_tokens: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = ("--method", large_tokens, "--retention", 0.9)
    outcome = tangovlm_command(*arguments, *own, "--adaptive", "--positions", "original", "--allow-failures")
    assert outcome.status == 0
    found = rows(tmp_path / "out.jsonl")
    assert found["a"]["tokens_cap"] == count(0.9, TOTAL) > found["a"]["tokens_after"]
    assert found["b"]["tokens_cap"] == count(0.5, TOTAL) >= found["b"]["tokens_after"]
    assert found["a"]["settings"] == {"positions": "original", "adaptive": True}
    for other in (("--adaptive",), ("--positions", "original"), ("--adaptive", "--positions", "contiguous")):
        tangovlm_command(*arguments, *own, *other).refused("settings: choose another OUTPUT")
    tangovlm_command(*arguments[:2], tmp_path / "other.jsonl", "--adaptive").refused("'tango' keeps a fixed number")
    # With vLLM installed, such a method still runs with transformers.
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: object())
    chosen = settings.Settings(str(arguments[4]), large_tokens, 0.9, adaptive=True)
    kind, reason = settings.choose_engine(chosen)
    assert kind == "transformers" and "sizes a prompt before it encodes the video" in reason
    with pytest.raises(InputError, match="sizes a prompt before it encodes the video"):
        settings.check_settings(replace(chosen, kind="vllm"))


def test_frames_that_are_not_encoded(
    tangovlm_command: Run, arguments: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    still = write_still(tmp_path / "still.mp4")
    asked = [{"id": number, "video": str(still), "question": f"What {number}?"} for number in (1, 2)]
    asked.append({"id": 3, "video": str(still), "question": "Alone?", "frames": 2})
    Path(str(arguments[1])).write_text("\n".join(map(json.dumps, asked)))
    outcome = tangovlm_command(*arguments, "--encode", "changed")
    assert outcome.status == 0
    for row in rows(tmp_path / "out.jsonl").values():
        assert row["settings"]["encode"] == "changed" and row["encoded_frames"] == 1
    tangovlm_command(*arguments).refused("settings: choose another OUTPUT")
    # With vLLM installed, transformers are chosen, and vLLM is refused.
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: object())
    chosen = settings.Settings(str(arguments[4]), encode="changed")
    assert settings.choose_engine(chosen) == ("transformers", "vLLM encodes all frames")
    with pytest.raises(InputError, match="vLLM encodes all frames: use --engine transformers"):
        settings.check_settings(replace(chosen, kind="vllm"))


@pytest.mark.parametrize("option", [("--adaptive",), ("--positions", "original"), ("--encode", "changed")])
def test_a_server_has_its_own_positions_and_numbers(
    tangovlm_command: Run, source: Path, tmp_path: Path, option: tuple[str, ...]
) -> None:
    outcome = tangovlm_command("batch", source, tmp_path / "out.jsonl", "--server", "http://127.0.0.1:1", *option)
    outcome.refused(f"{option[0]} does not go with --server")
