"""What happens when somebody uses the page: Gradio's events call these methods."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from html import escape
from pathlib import Path
from time import sleep
from typing import Any, TypeVar

import gradio as gr

from tangovlm.errors import InputError, TangoError

from ..answering import Settings
from ..clips import Example
from ..engine import Engine
from ..results import Choice, Run
from ..sessions import Session
from ..views import answers as answers_view
from ..views import comparison as comparison_view
from ..views import frames as frames_view
from ..views import parts

ANSWERS, COMPARISON, CHOICE = "answers", "comparison", "choice"
CLOSED = "the page was closed: reload it"
FIRST = Choice("tango", 0.1)
"""What the page asks with unless something else is chosen."""
Update = Any
"""What Gradio accepts as the new value of a component."""
T = TypeVar("T")
_WAITING = "Waiting for the clip"
_POLL_S = 0.1


class Handlers:
    """The events of the page.

    Parameters
    ----------
    engine: answers questions.
    examples: clips to choose from.
    folder: in which they are rendered.
    loading: shown until the model is loaded.
    """

    def __init__(self, engine: Engine, examples: Sequence[Example], folder: Path, loading: str) -> None:
        self.engine = engine
        self.examples = {example.name: example for example in examples}
        self._folder = folder
        self._loading = loading

    def session(self, request: gr.Request) -> Session | None:
        """The session of the page that sent a request; None if the page was closed."""
        return self.engine.sessions.get(str(request.session_hash))

    # --- the page is opened and closed --------------------------------------------------------------------------------

    def ready(self, request: gr.Request) -> Iterator[tuple[Update, ...]]:
        """Outputs: the line about the model, the field for files, the button that asks, the one that compares, and the
        number of frames.
        """
        engine, session = self.engine, self.session(request)
        if session is None:
            yield parts.error(CLOSED), *[gr.skip()] * 4
            return
        picker = parts.picker(session.token, engine.limits)
        if not engine.is_settled:
            yield parts.status(self._loading), picker, *[gr.skip()] * 3
        llm = engine.wait()
        if llm is None:
            off = gr.update(interactive=False)
            yield parts.error(engine.failure or ""), picker, off, off, gr.skip()
            return
        on = gr.update(interactive=True)
        yield model_line(llm), picker, on, on, gr.update(value=min(llm.default_frames, engine.limits.max_frames))

    def close(self, request: gr.Request) -> None:
        """The page was closed or reloaded."""
        self.engine.sessions.close(str(request.session_hash))

    # --- the clip -----------------------------------------------------------------------------------------------------

    def choose_example(self, name: str | None, request: gr.Request) -> Iterator[tuple[Update, ...]]:
        """Outputs: see `_chosen`."""
        session = self.session(request)
        if session is None:
            yield gr.skip(), parts.error(CLOSED), *[gr.skip()] * 5
            return
        if name is None or name not in self.examples:
            return
        session.number[CHOICE] += 1
        number = session.number[CHOICE]
        session.choosing.add(number)
        try:
            # Packages that take seconds to import are needed for the file, but not for one frame.
            yield parts.still(name, self.examples[name].poster()), parts.status("Rendering the clip"), *[gr.skip()] * 5
            self.engine.wait_for_packages()
            clip = self.examples[name].clip(self._folder)
            if session.number[CHOICE] == number:
                self.engine.sessions.choose(session, clip)
                self.engine.prepare(session, FIRST)
                yield self._chosen(session, name)
        finally:
            session.choosing.discard(number)

    def choose_upload(self, request: gr.Request) -> tuple[Update, ...]:
        """A file was uploaded and checked by `files.py`; outputs: see `_chosen`."""
        session = self.session(request)
        if session is None:
            return gr.skip(), parts.error(CLOSED), *[gr.skip()] * 5
        session.number[CHOICE] += 1
        if session.offered is None:
            return gr.skip(), parts.error("the file is not here any more: upload it again"), *[gr.skip()] * 5
        self.engine.sessions.choose(session, session.offered)
        self.engine.prepare(session, FIRST)
        return self._chosen(session, None)

    def _chosen(self, session: Session, example: str | None) -> tuple[Update, ...]:
        """The player, the message about the clip, the name of the example, the suggestions, the answers, the frames,
        and the comparison, after the clip of a session was changed.
        """
        clip = session.clip
        assert clip is not None
        # The number makes it another address, so that the browser does not show the clip before.
        url = f"./video/{session.token}?{session.number[CHOICE]}"
        questions = [question for question, _ in clip.questions]
        suggestions = gr.update(choices=questions, value=None, visible=bool(questions))
        player = parts.player(url, clip)
        return player, "", gr.update(value=example), suggestions, answers_view.EMPTY, "", comparison_view.EMPTY

    # --- questions ----------------------------------------------------------------------------------------------------

    def ask(
        self,
        question: str,
        method: str,
        percent: float,
        frames: float,
        positions: str,
        length: float,
        request: gr.Request,
    ) -> Iterator[tuple[str, str]]:
        """Answer a question with all tokens and with a method; outputs: the answers and the frames."""
        session = self.session(request)
        if session is None:
            yield parts.error(CLOSED), ""
            return
        if not (yield from self._wait_for_clip(session, ANSWERS, (parts.status(_WAITING), ""))):
            return
        session.asked = question
        yield from self._ask(session, method, percent, frames, positions, length)

    def again(
        self, method: str, percent: float, frames: float, positions: str, length: float, request: gr.Request
    ) -> Iterator[tuple[str, str]]:
        """Answer the last question again with other settings, if there was one; outputs: see `ask`."""
        session = self.session(request)
        if session is None:
            yield parts.error(CLOSED), ""
        elif ANSWERS in session.runs and not session.choosing:
            yield from self._ask(session, method, percent, frames, positions, length)

    def compare(
        self,
        methods: list[str],
        question: str,
        percent: float,
        frames: float,
        positions: str,
        length: float,
        request: gr.Request,
    ) -> Iterator[str]:
        """Answer a question with several methods; output: the comparison."""
        session = self.session(request)
        if session is None:
            yield parts.error(CLOSED)
            return
        if not (yield from self._wait_for_clip(session, COMPARISON, parts.status(_WAITING))):
            return
        try:
            if session.clip is None:
                raise InputError("no clip: choose one first")
            if not methods:
                raise InputError("no method is chosen: choose at least one")
            settings = self._settings(frames, positions, length)
            choices = [Choice(methods[0], 1.0), *(Choice(method, _retention(percent)) for method in methods)]
            if choices[-1].is_full:
                raise InputError("with 100 % of the tokens the methods do not differ: keep fewer")
        except TangoError as error:
            yield parts.error(str(error))
            return
        for run in self.engine.run(session, COMPARISON, question, choices, settings):
            yield comparison_view.comparison(run, session.token)

    def _ask(
        self, session: Session, method: str, percent: float, frames: float, positions: str, length: float
    ) -> Iterator[tuple[str, str]]:
        try:
            if session.clip is None:
                raise InputError("no clip: choose one first")
            retention, settings = _retention(percent), self._settings(frames, positions, length)
        except TangoError as error:
            yield parts.error(str(error)), ""
            return
        choices = list(dict.fromkeys([Choice(method, 1.0), Choice(method, retention)]))
        shown: Run | None = None
        for run in self.engine.run(session, ANSWERS, session.asked, choices, settings):
            # The frames are large: they are sent when they change.
            is_new = shown is None or shown.pruned[0].result is not run.pruned[0].result
            shown = run
            yield answers_view.answers(run, session.token), frames_view.frames(run) if is_new else gr.skip()

    def _wait_for_clip(self, session: Session, part: str, line: T) -> Generator[T, None, bool]:
        """Yield a line while the chosen clip is being rendered, which a question is about; whether to go on then."""
        ticket = session.waiting[part] = object()
        while session.choosing:
            yield line
            sleep(_POLL_S)
        return session.waiting[part] is ticket

    def _settings(self, frames: float, positions: str, length: float) -> Settings:
        limits = self.engine.limits
        chosen = None if positions == "method" else positions
        return Settings(limits.check_frames(frames), chosen, limits.check_new_tokens(length))


def model_line(llm: Any) -> str:
    """The model in a line."""
    words = "embedded, " if llm.builtin else ""
    extra = " It understands only its synthetic world: moving shapes, digits and words." if llm.builtin else ""
    return f"<p class=tv-model>Model: <b>{escape(llm.name)}</b> ({words}{escape(str(llm.family.device))}).{extra}</p>"


def _retention(percent: Any) -> float:
    if not isinstance(percent, (int, float)) or not 0 < percent <= 100:
        raise InputError(f"tokens to keep: {percent!r} is not a percentage above 0")
    return round(percent / 100, 6)
