"""Choices and questions that come while a clip is being rendered."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tangovlm.app.clips import Clip, examples
from tangovlm.app.engine import Engine
from tangovlm.app.limits import Limits
from tangovlm.app.views import parts

WAIT_S = 60
QUESTION = "What color is the bar?"
SETTINGS = ("tango", 10, 8, "method", 8)


class Slow:
    """An example whose rendering ends when it is told to."""

    def __init__(self, name: str, clip: Clip) -> None:
        self.name = name
        self.may_end = threading.Event()
        self._clip = clip

    def poster(self) -> str:
        return self._clip.poster

    def clip(self, _folder: Path) -> Clip:
        assert self.may_end.wait(WAIT_S)
        return self._clip


class Page:
    """Handlers of a page with two examples, whose events run in threads."""

    def __init__(self, engine: Engine, demo: Clip, still: Clip) -> None:
        from tangovlm.app.web.handlers import Handlers

        self.demo, self.still = Slow("demo", demo), Slow("still", still)
        self.handlers = Handlers(engine, [self.demo, self.still], Path(), "")  # type: ignore[list-item]
        self.request: Any = SimpleNamespace(session_hash="page")
        self.session = self.handlers.session(self.request)

    def begin(self, event: Any, *arguments: Any) -> tuple[list[Any], threading.Thread]:
        """What an event yields, and its thread; returns when it has yielded once."""
        yielded: list[Any] = []
        first = threading.Event()

        def run() -> None:
            for each in event(*arguments, self.request):
                yielded.append(each)
                first.set()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        assert first.wait(WAIT_S)
        return yielded, thread


@pytest.fixture
def page(gradio: None, engine: Engine, demo: Clip, still: Clip) -> Page:
    return Page(engine, demo, still)


def test_a_question_waits_for_the_chosen_clip(page: Page) -> None:
    _, choice = page.begin(page.handlers.choose_example, "still")
    lost, before = page.begin(page.handlers.ask, "What number is on the sign?", *SETTINGS)
    shown, question = page.begin(page.handlers.ask, QUESTION, *SETTINGS)
    assert "Waiting for the clip" in shown[0][0]
    page.still.may_end.set()
    for thread in (choice, before, question):
        thread.join(WAIT_S)
        assert not thread.is_alive()
    assert QUESTION in shown[-1][0]
    assert f"about {page.session.clip.name}" in shown[-1][0]  # type: ignore[union-attr]
    assert "Still" in shown[-1][0]
    assert page.session.runs["answers"].is_done
    # The question before it is given up.
    assert all("Waiting for the clip" in answers for answers, _ in lost)


def test_the_last_choice_counts(page: Page) -> None:
    first, one = page.begin(page.handlers.choose_example, "demo")
    second, other = page.begin(page.handlers.choose_example, "still")
    page.still.may_end.set()
    other.join(WAIT_S)
    page.demo.may_end.set()
    one.join(WAIT_S)
    assert (len(first), len(second)) == (1, 2)
    assert page.session.clip is page.still.clip(Path())
    assert page.session.choosing == set()


def test_late_events_of_a_closed_page_keep_nothing(page: Page) -> None:
    handlers, request = page.handlers, page.request
    handlers.close(request)
    events = (
        handlers.ready(request),
        handlers.choose_example("still", request),
        [handlers.choose_upload(request)],
        handlers.ask(QUESTION, *SETTINGS, request),
        handlers.again(*SETTINGS, request),
        handlers.compare(["tango"], QUESTION, *SETTINGS[1:], request),
    )
    for event in events:
        (outputs,) = event
        assert "the page was closed: reload it" in str(outputs)
    assert handlers.engine.sessions.count == 0


def test_a_frame_is_shown_before_the_packages_are_imported(gradio: None, folder: Path) -> None:
    from tangovlm.app.web.handlers import Handlers
    from tangovlm.app.web.page import build

    # It never imports anything: rendering the file would wait.
    waiting = Engine(lambda: pytest.fail("the model was loaded"), Limits())
    handlers, shown = Handlers(waiting, examples(), folder, ""), examples()[1]
    first, *_ = next(handlers.choose_example(shown.name, SimpleNamespace(session_hash="page")))  # type: ignore[arg-type]
    assert first == parts.still(shown.name, shown.clip(folder).poster)
    page = build(handlers, ["tango"])
    pictures = [each.value for each in page.blocks.values() if "<img" in str(getattr(each, "value", ""))]
    assert pictures == [parts.still("Demo, 8 s", examples()[0].poster())]
