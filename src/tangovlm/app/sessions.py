"""What the server keeps for each open page, with the files of its user."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field
from secrets import compare_digest, token_urlsafe
from threading import Lock
from typing import TYPE_CHECKING

from .clips import Clip
from .results import Choice, Result, Run

if TYPE_CHECKING:
    from tangovlm.pipeline import EncodedClip

HELD_CLIPS = 8
"""Clips of so many pages stay encoded; another page encodes its clip again when it asks."""
_RESULTS = 24
"""Answers that a page keeps for its question."""
_CLOSED = 10_000
"""Pages that were closed last, whose late events are refused."""


@dataclass(eq=False)
class Session:
    """One open page.

    Parameters
    ----------
    token: names it in the addresses of its files; nobody else knows it.
    clip: chosen last.
    offered: uploaded, and not chosen yet.
    asked: the question that was asked last, as it was typed.
    encoded, settings: that clip after encoding, and what it was encoded with.
    question, results: the last question, and the answers to it so far.
    runs: what is shown, by the part of the page.
    choosing: numbers of the choices of a clip that is still being rendered.
    waiting: for each part of the page, the question that came last while a clip was being rendered.
    number: counts the runs of each part of the page, and the changes of the clip, so that an older one notices that
        it is not wanted any more.
    """

    token: str = field(default_factory=lambda: token_urlsafe(16))
    clip: Clip | None = None
    offered: Clip | None = None
    asked: str = ""
    encoded: EncodedClip | None = None
    settings: tuple[object, ...] = ()
    question: tuple[object, ...] = ()
    results: OrderedDict[Choice, Result] = field(default_factory=OrderedDict)
    runs: dict[str, Run] = field(default_factory=dict)
    choosing: set[int] = field(default_factory=set)
    waiting: dict[str, object] = field(default_factory=dict)
    number: Counter[str] = field(default_factory=Counter)

    def choose(self, clip: Clip | None) -> None:
        """Replace the clip, and forget everything about the one before."""
        self.clip, self.encoded, self.settings, self.question = clip, None, (), ()
        self.results.clear()
        self.runs.clear()
        for part in list(self.number):
            self.number[part] += 1

    def keep(self, choice: Choice, result: Result) -> None:
        """Keep an answer to the question, in place of the one that was used least recently."""
        self.results[choice] = result
        self.results.move_to_end(choice)
        while len(self.results) > _RESULTS:
            self.results.popitem(last=False)


class Sessions:
    """The open pages, by the names that Gradio gives them."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._open: OrderedDict[str, Session] = OrderedDict()
        # Hashes, because clients choose the names and their length.
        self._closed: deque[int] = deque(maxlen=_CLOSED)

    def get(self, name: str) -> Session | None:
        """The session of a page, a new one for a new page; None for a page that was closed.

        An event may come after its page was closed, and nothing would close the session that it opens.
        """
        with self._lock:
            if name not in self._open and hash(name) in self._closed:
                return None
            return self._open.setdefault(name, Session())

    def by_token(self, token: str) -> Session | None:
        """The session with a token."""
        with self._lock:
            return next((each for each in self._open.values() if compare_digest(each.token, token)), None)

    def offer(self, session: Session, clip: Clip) -> None:
        """Keep an uploaded clip until its page chooses it, in place of one that was offered before."""
        with self._lock:
            is_open = session in self._open.values()
            old, session.offered = session.offered, clip if is_open else None
        # The page may have been closed while the file was uploaded.
        for each in (old, None if is_open else clip):
            _remove(each)

    def choose(self, session: Session, clip: Clip | None) -> None:
        """Replace the clip of a session; a file of a user is removed when another clip is chosen."""
        with self._lock:
            old = session.clip
            session.choose(clip)
            if clip is not None and session.offered is clip:
                session.offered = None
        if old is not clip:
            _remove(old)

    def close(self, name: str) -> None:
        """Forget a page that was closed, and remove its files."""
        with self._lock:
            session = self._open.pop(name, None)
            if hash(name) not in self._closed:
                self._closed.append(hash(name))
            if session is None:
                return
            clips = (session.clip, session.offered)
            session.choose(None)
            session.offered = None
        for clip in clips:
            _remove(clip)

    def encoded(self, session: Session) -> None:
        """Note that a session has just encoded a clip, and drop those that others encoded longest ago."""
        with self._lock:
            name = next((name for name, each in self._open.items() if each is session), None)
            if name is not None:
                self._open.move_to_end(name)
            holders = [each for each in self._open.values() if each.encoded is not None]
            for each in holders[:-HELD_CLIPS]:
                each.encoded = None

    @property
    def count(self) -> int:
        """Number of open pages."""
        return len(self._open)


def _remove(clip: Clip | None) -> None:
    if clip is not None and clip.uploaded:
        clip.path.unlink(missing_ok=True)
