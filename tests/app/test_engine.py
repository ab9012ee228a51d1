"""Questions of several pages: answers are those of the library, pages do not mix, one encoding serves many answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread
from time import sleep
from typing import Any

import pytest

import tangovlm
from tangovlm.app.answering import Settings
from tangovlm.app.clips import Clip
from tangovlm.app.engine import BUG, Engine
from tangovlm.app.limits import Limits
from tangovlm.app.results import Choice, Run
from tangovlm.app.sessions import Session
from tangovlm.errors import ModelError
from tangovlm.pipeline import VideoLLM

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
FULL, TANGO = Choice("tango", 1.0), Choice("tango", 0.1)
SETTINGS = Settings(frames=16)
Page = Callable[[str, Clip], Session]


def last(runs: Iterator[Run]) -> Run:
    return list(runs)[-1]


def texts(run: Run) -> list[str]:
    return [str(column.result.answer) if column.result else column.error for column in run.columns]


def test_answers_are_those_of_the_library(engine: Engine, page: Page, llm: VideoLLM, demo: Clip) -> None:
    session = page("one", demo)
    question, truth = demo.questions[0]
    run = last(engine.run(session, "answers", f"  {question} ", [FULL, TANGO], SETTINGS))
    assert (run.question, run.truth, run.is_done, run.stage, run.error) == (question, truth, True, "", "")
    for column, retention in zip(run.columns, (1.0, 0.1), strict=True):
        alone = tangovlm.ask(demo.path, question, model=llm, retention=retention, frames=16, record=True)
        assert column.result is not None
        assert column.text == column.result.answer == alone
        assert column.result.answer.tokens_after == alone.tokens_after
        assert alone.video is not None
        sources = alone.video.selection.sources.numpy()
        assert (column.result.drawn.sources == sources).all()
        assert column.result.answer.video is None
    assert run.exchange is not None
    assert (run.exchange.answer, run.exchange.unpruned) == (run.columns[1].text, run.columns[0].text)
    assert session.runs["answers"] is run


def test_texts_grow_until_the_answer(engine: Engine, page: Page, demo: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tangovlm.app.engine.iterate", unhurried)
    question = demo.questions[-1][0]
    runs = list(engine.run(page("one", demo), "answers", question, [FULL, TANGO], SETTINGS))
    stages = [run.stage for run in runs]
    assert "Decoding frames 16 of 16" in stages
    assert "Encoding frames" in stages
    assert {"Answering with tango, 10 %", "Answering with all tokens"} <= set(stages)
    for place in (0, 1):
        shown = list(dict.fromkeys(run.columns[place].text for run in runs))
        assert shown[0] == ""
        assert len(shown) > 1
        assert all(later.startswith(earlier) for earlier, later in pairwise(shown))
    # The pruned answer is complete before the one of all tokens has begun.
    assert all(run.columns[1].is_done for run in runs if run.columns[0].text)


def unhurried(work: Any) -> Iterator[Any]:
    from tangovlm.app.background import Emitter

    emit: Emitter[Any] = Emitter()
    work(emit)
    while not emit.queue.empty():
        yield emit.queue.get()


def test_other_retentions_and_methods_share_the_encoding(
    engine: Engine, page: Page, llm: VideoLLM, demo: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = page("one", demo)
    calls = []
    encode = type(llm).encode

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(options["method"])
        return encode(*args, **options)

    monkeypatch.setattr(type(llm), "encode", counted)
    question = demo.questions[0][0]
    first = last(engine.run(session, "answers", question, [FULL, TANGO], SETTINGS))
    for choice in (Choice("tango", 0.2), Choice("fastvid", 0.2), Choice("fastv", 0.5), TANGO):
        run = last(engine.run(session, "answers", question, [replace(FULL, method=choice.method), choice], SETTINGS))
        assert run.columns[1].heading == choice.words
        assert run.columns[1].error == ""
        # All tokens are the same for every method.
        assert run.columns[0].result is first.columns[0].result
    assert run.columns[1].result is first.columns[1].result
    assert calls == ["tango"]
    other = last(engine.run(session, "answers", demo.questions[1][0], [FULL, TANGO], SETTINGS))
    assert other.columns[1].result is not first.columns[1].result
    assert calls == ["tango"]
    for settings in (Settings(frames=8), Settings(frames=8, positions="original")):
        run = last(engine.run(session, "answers", question, [FULL, TANGO], settings))
        assert run.columns[0].result is not None
        assert run.columns[0].result.drawn.steps == 8
    assert calls == ["tango"] * 3


def test_a_method_that_cannot_run_leaves_the_others(engine: Engine, page: Page, demo: Clip) -> None:
    session = page("one", demo)
    choices = [FULL, Choice("holitom-merge", 0.1), TANGO]
    run = last(engine.run(session, "comparison", demo.questions[0][0], choices, SETTINGS))
    assert run.is_done
    assert "out of reach" in run.columns[1].error
    assert [column.result is not None for column in run.columns] == [True, False, True]


@pytest.mark.parametrize("question", ["", "   "])
def test_no_question(engine: Engine, page: Page, demo: Clip, question: str) -> None:
    run = last(engine.run(page("one", demo), "answers", question, [FULL, TANGO], SETTINGS))
    assert run.error.startswith("no question")
    assert run.is_done


def test_a_damaged_file_is_named_as_its_user_knows_it(engine: Engine, page: Page, demo: Clip, tmp_path: Path) -> None:
    path = tmp_path / "3ad9.mp4"
    path.write_bytes(demo.path.read_bytes())
    session = page("one", Clip(path, "holiday.mp4", 8.0, "", uploaded=True))
    path.write_bytes(demo.path.read_bytes()[:5000])
    run = last(engine.run(session, "answers", "Where?", [FULL, TANGO], SETTINGS))
    messages = {column.error for column in run.columns}
    assert len(messages) == 1
    (message,) = messages
    assert message.startswith("holiday.mp4: ")
    assert "3ad9" not in message


def test_a_bug_is_one_line_and_a_traceback(
    engine: Engine, page: Page, demo: Clip, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("seven")

    session = page("one", demo)
    with monkeypatch.context() as patch:
        patch.setattr("tangovlm.app.answering.Result.of", broken)
        run = last(engine.run(session, "answers", "Where?", [FULL, TANGO], SETTINGS))
    assert run.error == BUG
    assert "ZeroDivisionError: seven" in capfd.readouterr().err
    # The next question is answered.
    assert last(engine.run(session, "answers", "Where?", [FULL, TANGO], SETTINGS)).error == ""


# --- several users ---------------------------------------------------------------------------------------------------


def test_pages_that_ask_at_the_same_time_get_their_own_answers(
    engine: Engine, page: Page, demo: Clip, still: Clip
) -> None:
    asked: list[tuple[Clip, str]] = [(clip, question) for clip in (demo, still) for question, _ in clip.questions[:2]]
    expected = [
        texts(last(engine.run(page(f"alone {number}", clip), "answers", question, [FULL, TANGO], SETTINGS)))
        for number, (clip, question) in enumerate(asked)
    ]
    assert len({tuple(each) for each in expected}) > 2
    found: dict[int, list[str]] = {}

    def user(number: int) -> None:
        clip, question = asked[number]
        runs = list(engine.run(page(f"user {number}", clip), "answers", question, [FULL, TANGO], SETTINGS))
        assert {(run.clip.name, run.question) for run in runs} == {(clip.name, question)}
        found[number] = texts(runs[-1])

    threads = [Thread(target=user, args=(number,)) for number in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert [found[number] for number in range(len(asked))] == expected


def test_those_who_wait_know_it(engine: Engine, page: Page, demo: Clip, still: Clip) -> None:
    first = engine.run(page("one", demo), "answers", demo.questions[0][0], [FULL, TANGO], SETTINGS)
    with engine._turns.take(lambda _: None):
        waiting = engine.run(page("two", still), "answers", still.questions[0][0], [FULL, TANGO], SETTINGS)
        assert next(waiting).stage == "Waiting: 1 before this one"
    assert last(waiting).error == ""
    assert last(first).error == ""


def test_a_newer_run_ends_the_older(engine: Engine, page: Page, demo: Clip) -> None:
    session = page("one", demo)
    with engine._turns.take(lambda _: None):
        older = engine.run(session, "answers", "Where is the bar?", [FULL, TANGO], SETTINGS)
        assert next(older).stage.startswith("Waiting")
        newer = engine.run(session, "answers", demo.questions[0][0], [FULL, TANGO], SETTINGS)
        assert next(newer).stage.startswith("Waiting")
        # Other parts of the page are independent.
        compared = engine.run(session, "comparison", demo.questions[0][0], [FULL], SETTINGS)
        assert next(compared).stage.startswith("Waiting")
    assert list(older) == []
    assert last(newer).is_done
    assert last(compared).is_done
    assert session.runs["answers"].question == demo.questions[0][0]


def test_another_clip_ends_a_run(engine: Engine, page: Page, demo: Clip, still: Clip) -> None:
    session = page("one", demo)
    with engine._turns.take(lambda _: None):
        run = engine.run(session, "answers", "Where?", [FULL, TANGO], SETTINGS)
        next(run)
        engine.sessions.choose(session, still)
    assert list(run) == []
    assert session.runs == {}


def test_a_page_that_leaves_frees_the_model(engine: Engine, page: Page, demo: Clip) -> None:
    runs = engine.run(page("one", demo), "answers", demo.questions[0][0], [FULL, TANGO], SETTINGS)
    next(runs)
    runs.close()  # type: ignore[attr-defined] # a generator
    assert last(engine.run(page("two", demo), "answers", demo.questions[0][0], [FULL, TANGO], SETTINGS)).is_done


def test_a_clip_is_encoded_before_the_first_question(engine: Engine, page: Page, demo: Clip) -> None:
    session = page("one", demo)
    engine.prepare(session, TANGO)
    for _ in range(1000):
        if session.encoded is not None:
            break
        sleep(0.01)
    encoded = session.encoded
    assert encoded is not None
    run = last(engine.run(session, "answers", demo.questions[0][0], [FULL, TANGO], SETTINGS))
    assert run.is_done
    assert session.encoded is encoded


# --- the model -------------------------------------------------------------------------------------------------------


def test_a_model_that_is_still_loading(llm: VideoLLM, demo: Clip) -> None:
    go_on = Event()

    def load() -> VideoLLM:
        go_on.wait(60)
        return llm

    engine = Engine(load, Limits())
    engine.start(lambda: demo.path)
    session = engine.sessions.get("one")
    assert session is not None
    engine.sessions.choose(session, demo)
    assert not engine.is_settled
    run = last(engine.run(session, "answers", "Where?", [FULL, TANGO], SETTINGS))
    assert run.error.startswith("the model is still being loaded")
    go_on.set()
    assert engine.wait(60) is llm
    assert last(engine.run(session, "answers", "Where?", [FULL, TANGO], SETTINGS)).error == ""


@pytest.mark.parametrize(
    ("error", "message"),
    [(ModelError("there is no model 'nothing'"), "there is no model 'nothing'"), (KeyError("x"), BUG)],
)
def test_a_model_that_does_not_load(
    error: Exception, message: str, demo: Clip, capfd: pytest.CaptureFixture[str]
) -> None:
    def load() -> VideoLLM:
        raise error

    lines: list[str] = []
    engine = Engine(load, Limits(), lines.append)
    engine.start()
    assert engine.wait(60) is None
    assert engine.failure is not None
    assert message in engine.failure
    assert lines == [engine.failure]
    session = engine.sessions.get("one")
    assert session is not None
    engine.sessions.choose(session, demo)
    run = last(engine.run(session, "answers", "Where?", [FULL, TANGO], SETTINGS))
    assert run.error == engine.failure
    assert ("Traceback" in capfd.readouterr().err) == isinstance(error, KeyError)


def test_the_end_of_the_server_ends_runs(engine: Engine, page: Page, demo: Clip) -> None:
    session = page("one", demo)
    engine.close()
    assert not any(run.is_done for run in engine.run(session, "answers", "Where?", [FULL, TANGO], SETTINGS))
