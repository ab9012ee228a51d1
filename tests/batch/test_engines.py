"""The batch command on vLLM and over Ray, against transformers in this process."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import pytest

from tangovlm.batch.corpus import Corpus, Task
from tangovlm.batch.engine import EngineDiedError
from tangovlm.batch.transformers_engine import TransformersEngine
from tangovlm.pipeline import load
from tangovlm.pipeline.embedded import BUILTIN_NOTE, FOREIGN_NOTE
from tangovlm.tiny.clip import write_clip
from tangovlm.tiny.synthetic.sampling import sample_clip
from tests.support.checkpoints import write_clip as write_other
from tests.support.serve.engine import ENVIRONMENT, FORKED

needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")

MAX_NEW_TOKENS = 6
RETENTION = 0.2


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions about two clips of the embedded model's world, with rows that cannot be answered among them."""
    folder = tmp_path_factory.mktemp("corpus")
    for number in (0, 1):
        write_clip(sample_clip(np.random.default_rng(number)), folder / f"{number}.mp4")
    (folder / "text.mp4").write_text("no video")
    rows = [
        # Refused as too long when its video is already in vLLM's caches; the next rows ask about the same video.
        {"id": "too long", "video": "0.mp4", "question": "What color is it? " * 400},
        {"id": "a", "video": "0.mp4", "question": "What color are the diamonds?"},
        {"id": "b", "video": "0.mp4", "question": "How many things are there?", "max_new_tokens": 1},
        {"id": "c", "video": "text.mp4", "question": "What?"},
        {"id": "d", "video": "1.mp4", "question": "What color are the diamonds?", "retention": 1.0},
        {"id": "e", "video": "1.mp4", "question": "What color are the diamonds?", "retention": 0.1},
        {"id": "f", "video": "1.mp4", "question": "Is <video> a word?"},
    ]
    path = folder / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def expected(source: Path) -> dict[Any, dict[str, Any]]:
    """The answers of transformers to the rows, with the positions of the unpruned prompt."""
    corpus = Corpus(source, Task("", "", "", RETENTION, MAX_NEW_TOKENS, str(source.parent)))
    engine = TransformersEngine(load.load(), "tango", frames=8, positions="original")

    def tasks() -> Iterator[Task]:
        for _, row in corpus.rows():
            assert isinstance(row, Task)
            yield row

    return {outcome.task.id: dict(outcome.fields) for outcome in engine.answer(tasks())}


def test_an_embedded_model_knows_its_own_clips(source: Path, expected: dict[Any, dict[str, Any]]) -> None:
    other = write_other(source.parent / "other.mp4")
    (outcome,) = TransformersEngine(load.load(), "tango").answer(iter([Task(1, str(other), "What?", 0.1, 1)]))
    assert [note for note in outcome.fields["notes"] if "synthetic world" in note] == [FOREIGN_NOTE]
    assert [note for note in expected["a"]["notes"] if "synthetic world" in note] == [BUILTIN_NOTE]


def batch(
    source: Path, target: Path, *options: object, environment: Mapping[str, str] = ENVIRONMENT
) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, with the positions of the unpruned prompt."""
    asked = ("--video-root", source.parent, "--max-new-tokens", MAX_NEW_TOKENS, "--retention", RETENTION)
    asked += ("--positions", "original", "--allow-failures")
    return subprocess.run(
        [sys.executable, "-m", "tangovlm", "batch", *map(str, (source, target, *asked, "--frames", 8, *options))],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def rows(path: Path) -> dict[Any, dict[str, Any]]:
    """Rows of a file of answers by their ids, each once."""
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    by_id = {row["id"]: row for row in found}
    assert len(by_id) == len(found)
    return by_id


def agrees(found: dict[Any, dict[str, Any]], expected: dict[Any, dict[str, Any]], names: list[str]) -> None:
    """Fail unless answers, counts and frames of rows are those of transformers."""
    for name in names:
        same = expected[name].keys() - {"timings_ms", "shared_ms", "notes"}
        assert {key: found[name][key] for key in same} == {key: expected[name][key] for key in same}, name


@needs_vllm
def test_vllm(source: Path, expected: dict[Any, dict[str, Any]], tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    small = ("--enforce-eager", "--max-model-len", 1024, "--max-num-seqs", 4)
    done = batch(source, target, "--engine", "vllm", "--concurrency", 3, "--", *small, environment=ENVIRONMENT | FORKED)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout == ""
    found = rows(target)
    assert found.keys() == expected.keys()
    agrees(found, expected, ["a", "b", "d", "e"])
    for name in ("a", "b", "d", "e"):
        assert found[name]["timings_ms"].keys() == {"decode", "engine"}
        assert min(found[name]["timings_ms"].values()) > 0
    assert found["too long"]["frame_times_s"] == found["a"]["frame_times_s"]
    assert (found["d"]["tokens_after"], found["e"]["tokens_after"]) == (8 * 64, 51)
    for name, words in (("too long", "1024"), ("c", "not a video"), ("f", "<video>")):
        assert words in found[name]["error"]
        assert "\n" not in found[name]["error"]


class Dying:
    """A fake of vLLM's engine, which accepts so many requests before its process dies."""

    model_config = SimpleNamespace(hf_config=None, get_diff_sampling_param=dict)
    renderer = SimpleNamespace(render_cmpl=lambda _prompts: [{"mm_kwargs": {"video": [None]}}])

    def __init__(self, takes: int, error: Exception) -> None:
        self.takes = takes
        self.error = error

    def get_tokenizer(self) -> None:
        pass

    def add_request(self, *_: object) -> None:
        self.takes -= 1
        if self.takes < 0:
            raise self.error

    def step(self) -> NoReturn:
        raise self.error


@needs_vllm
@pytest.mark.parametrize(("takes", "running", "dead"), [(2, 2, False), (2, 2, True), (1, 1, True), (0, 0, True)])
def test_vllm_that_dies(source: Path, monkeypatch: pytest.MonkeyPatch, takes: int, running: int, dead: bool) -> None:
    from vllm import LLMEngine
    from vllm.v1.engine.exceptions import EngineDeadError

    from tangovlm.batch import vllm_engine

    engine = Dying(takes, EngineDeadError() if dead else RuntimeError("illegal memory access\nand more"))
    prompts = SimpleNamespace(default_frames=4, frame_size=None, text=str, grid=lambda *_: None)
    monkeypatch.setattr(LLMEngine, "from_engine_args", lambda _arguments: engine)
    monkeypatch.setattr(vllm_engine, "PromptBuilder", lambda *_: prompts)
    tasks = (Task(number, str(source.parent / "0.mp4"), "What?", None, 5) for number in range(2))
    words = "EngineCore encountered" if dead else "illegal memory access"
    with pytest.raises(
        EngineDiedError, match=f"vLLM died with {running} rows in progress .{words}.*: give the command"
    ):
        list(vllm_engine.VllmEngine(SimpleNamespace(model=""), concurrency=2).answer(tasks))


@needs_vllm
def test_an_option_that_vllm_does_not_have(source: Path, tmp_path: Path) -> None:
    done = batch(source, tmp_path / "out.jsonl", "--engine", "vllm", "--", "--max-num-sequences", 4)
    assert done.returncode == 2
    assert "--max-num-sequences" in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith("tangovlm: ")


@needs_ray
def test_ray(source: Path, expected: dict[Any, dict[str, Any]], tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    target.write_text(json.dumps({"id": "e", "video": "1.mp4", "question": "Why?", "error": "not yet"}) + "\n")
    # Ray's workers give way to all other processes, and would wait for the tests beside them.
    alike = ENVIRONMENT | {"RAY_worker_niceness": "0"}
    options = ("--ray", "--workers", 2, "--engine", "transformers", "--concurrency", 1)
    done = batch(source, target, *options, environment=alike)
    assert done.returncode == 0, done.stderr[-4000:]
    found = rows(target)
    assert found.keys() == expected.keys()
    assert found.pop("e")["error"] == "not yet"
    agrees(found, expected, sorted(found))


@needs_ray
def test_workers_that_cannot_start(source: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"architectures": ["LlavaOnevisionForConditionalGeneration"]}')
    options = ("--ray", "--engine", "transformers", "--model", tmp_path / "model")
    done = batch(source, tmp_path / "out.jsonl", *options)
    assert done.returncode == 2, done.stderr[-4000:]
    last = done.stderr.splitlines()[-1]
    assert last.startswith("tangovlm: Ray cannot go on: ")
    assert "ModelError" in last
