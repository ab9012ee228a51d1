"""Tasks about one clip share its encoding; each has the answer that it has alone."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tangovlm.batch.corpus import Task
from tangovlm.batch.engine import Outcome
from tangovlm.batch.transformers_engine import TransformersEngine, gather_by_clip
from tangovlm.pipeline import load
from tangovlm.pipeline.load import VideoLLM
from tangovlm.tiny.clip import write_clip
from tangovlm.tiny.synthetic.sampling import sample_clip

QUESTIONS = ("What color is the bar?", "How many squares are there?", "Where is the bar?")
FRAMES, RETENTION, LONGEST = 8, 0.2, 6


@pytest.fixture(scope="module")
def llm() -> VideoLLM:
    return load.load(device="cpu")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("clips")
    for number in (0, 1):
        write_clip(sample_clip(np.random.default_rng(number)), folder / f"{number}.mp4")
    return sorted(folder.iterdir())


def tasks(clips: list[Path]) -> list[Task]:
    """Questions about two clips in turn, with rows that fail among them."""
    rows = [
        Task(f"{path.stem} {number}", str(path), question, RETENTION, LONGEST)
        for number, question in enumerate(QUESTIONS)
        for path in clips
    ]
    first = rows[0]
    rows[2:2] = [
        replace(first, id="wider", retention=1.0),
        replace(first, id="shorter", max_new_tokens=1),
        replace(first, id="too long", question="What color is it? " * 4000),
        replace(first, id="reserved", question="Is <video> a word?"),
        replace(first, id="no file", video=str(clips[0].with_name("missing.mp4"))),
    ]
    return rows


def answers(llm: VideoLLM, asked: list[Task], **options: Any) -> dict[Any, Outcome]:
    engine = TransformersEngine(llm, options.pop("method", "tango"), FRAMES, **options)
    outcomes = list(engine.answer(iter(asked)))
    assert sorted(str(each.task.id) for each in outcomes) == sorted(str(task.id) for task in asked)
    return {outcome.task.id: outcome for outcome in outcomes}


def without_times(outcomes: dict[Any, Outcome]) -> dict[Any, dict[str, Any]]:
    """The rows without how long they took."""
    return {
        name: {field: value for field, value in outcome.fields.items() if field not in ("timings_ms", "shared_ms")}
        for name, outcome in outcomes.items()
    }


def encodings(llm: VideoLLM, monkeypatch: pytest.MonkeyPatch) -> list[None]:
    calls: list[None] = []
    stock = llm.family.encoder.get_video_features

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(None)
        return stock(*arguments, **options)

    counted.__wrapped__ = stock  # type: ignore[attr-defined]
    monkeypatch.setattr(llm.family.encoder, "get_video_features", counted)
    return calls


@pytest.mark.parametrize("method", ["tango", "fastv"])
def test_answers_are_those_of_lone_tasks(
    llm: VideoLLM, clips: list[Path], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tasks(clips)
    options = {"method": method} | ({"layer": 1} if method == "fastv" else {})
    if method == "fastv":
        asked = [replace(task, retention=0.5) if task.retention == RETENTION else task for task in asked]
    alone: dict[Any, Outcome] = {}
    for task in asked:
        alone |= answers(llm, [task], **options)
    calls = encodings(llm, monkeypatch)
    together = answers(llm, asked, **options)
    assert without_times(together) == without_times(alone)
    assert {name for name, outcome in together.items() if "error" in outcome.fields} == {
        "too long",
        "reserved",
        "no file",
    }
    # Rows that fail are known before their clip is encoded.
    assert len(calls) == len(clips)


def test_a_row_beyond_the_context_is_refused_before_its_clip_is_encoded(
    llm: VideoLLM, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [replace(task, id=number) for number in (0, 1) for task in tasks(clips) if task.id == "too long"]
    calls = encodings(llm, monkeypatch)
    for rows in (asked, asked[:1]):
        outcomes = answers(llm, rows)
        assert all("the model's context" in outcome.fields["error"] for outcome in outcomes.values())
        assert all(outcome.fields["frames"] == FRAMES for outcome in outcomes.values())
    assert not calls


def test_a_clip_is_encoded_once(llm: VideoLLM, clips: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [task for task in tasks(clips) if task.id not in ("too long", "reserved", "no file")]
    calls = encodings(llm, monkeypatch)
    found = answers(llm, asked)
    assert len(calls) == len(clips)
    for outcome in found.values():
        shared, times = outcome.fields["shared_ms"], outcome.fields["timings_ms"]
        assert set(shared) == {"decode", "encode", "prune", "prefill"}
        assert all(ms <= times[stage] for stage, ms in shared.items())
        assert (shared["decode"], shared["encode"]) == (times["decode"], times["encode"])
    (alone,) = answers(llm, asked[:1]).values()
    assert alone.fields["shared_ms"] == {}


def test_a_retention_that_fails_does_not_affect_later_ones(
    llm: VideoLLM, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tasks(clips)[0]
    asked = [replace(first, id=number, retention=each) for number, each in enumerate((0.5, 0.5, 0.1, 0.4))]
    calls = encodings(llm, monkeypatch)
    found = answers(llm, asked, method="fastv", layer=1)
    assert ["error" in found[number].fields for number in range(4)] == [False, False, True, False]
    # The task that fails is asked alone.
    assert len(calls) == 1


def test_a_failure_of_the_encoder_is_an_error_of_each_row(
    llm: VideoLLM, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_arguments: Any, **_options: Any) -> Any:
        raise RuntimeError("no memory")

    fails.__wrapped__ = llm.family.encoder.get_video_features  # type: ignore[attr-defined]
    monkeypatch.setattr(llm.family.encoder, "get_video_features", fails)
    found = answers(llm, [task for task in tasks(clips) if task.id not in ("too long", "reserved", "no file")])
    assert all("no memory" in outcome.fields["error"] for outcome in found.values())


def test_rows_are_gathered_in_parts(clips: list[Path]) -> None:
    drawn: list[Task] = []

    def drawing() -> Iterator[Task]:
        for task in tasks(clips):
            drawn.append(task)
            yield task

    groups = gather_by_clip(drawing(), rows=4)
    first = next(groups)
    assert len(drawn) == 4
    assert [task.id for task in first] == ["0 0", "wider", "shorter"]
    assert [task.id for task in next(groups)] == ["1 0"]
    assert sum(map(len, groups)) == len(drawn) - 4
