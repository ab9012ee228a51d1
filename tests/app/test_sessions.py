"""Sessions: files of users end with them, and few clips stay encoded."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from tangovlm.app.clips import Clip
from tangovlm.app.results import Choice
from tangovlm.app.sessions import HELD_CLIPS, Session, Sessions


def uploaded(folder: Path, name: str) -> Clip:
    path = folder / name
    path.write_bytes(b"video")
    return Clip(path, name, 1.0, "", uploaded=True)


def opened(sessions: Sessions, name: str) -> Session:
    session = sessions.get(name)
    assert session is not None
    return session


def test_a_page_has_one_session_and_a_token_of_its_own() -> None:
    sessions = Sessions()
    one, other = opened(sessions, "one"), opened(sessions, "other")
    assert sessions.get("one") is one
    assert one.token != other.token
    assert sessions.by_token(other.token) is other
    assert sessions.by_token("") is None
    assert sessions.count == 2


def test_another_clip_replaces_the_file(tmp_path: Path, demo: Clip) -> None:
    sessions = Sessions()
    session = opened(sessions, "one")
    first, second = uploaded(tmp_path, "a.mp4"), uploaded(tmp_path, "b.mp4")
    sessions.offer(session, first)
    sessions.choose(session, first)
    assert session.offered is None
    sessions.offer(session, second)
    assert first.path.exists()
    sessions.choose(session, second)
    assert not first.path.exists()
    assert second.path.exists()
    sessions.choose(session, demo)
    assert not second.path.exists()
    assert demo.path.exists()


def test_a_file_that_was_offered_twice(tmp_path: Path) -> None:
    sessions = Sessions()
    session = opened(sessions, "one")
    first, second = uploaded(tmp_path, "a.mp4"), uploaded(tmp_path, "b.mp4")
    sessions.offer(session, first)
    sessions.offer(session, second)
    assert [each.path.exists() for each in (first, second)] == [False, True]


def test_a_page_that_is_closed_leaves_no_file(tmp_path: Path, demo: Clip) -> None:
    sessions = Sessions()
    session = opened(sessions, "one")
    chosen, offered, late = (uploaded(tmp_path, name) for name in ("a.mp4", "b.mp4", "c.mp4"))
    sessions.offer(session, chosen)
    sessions.choose(session, chosen)
    sessions.offer(session, offered)
    sessions.close("one")
    sessions.close("one")
    assert sessions.count == 0
    assert sessions.by_token(session.token) is None
    # The upload of a third file ends after the page was closed.
    sessions.offer(session, late)
    assert not list(tmp_path.iterdir())
    other = opened(sessions, "two")
    sessions.choose(other, demo)
    sessions.close("two")
    assert demo.path.exists()


def test_late_events_of_a_closed_page_open_no_session() -> None:
    sessions = Sessions()
    opened(sessions, "one")
    sessions.close("one")
    # The first event of this page comes after its end.
    sessions.close("two")
    assert [sessions.get(name) for name in ("one", "two")] == [None, None]
    assert sessions.count == 0
    for number in range(20_000):
        sessions.close(f"{number}")
    assert sessions.get("19999") is None
    assert opened(sessions, "one").token


def test_a_new_clip_forgets_what_was_known(demo: Clip, still: Clip) -> None:
    sessions = Sessions()
    session = opened(sessions, "one")
    sessions.choose(session, demo)
    result: Any = object()
    encoded: Any = object()
    session.keep(Choice("tango", 0.1), result)
    session.encoded, session.question = encoded, ("Where?",)
    session.number["answers"] = 3
    sessions.choose(session, still)
    assert (session.encoded, session.question, dict(session.results), session.runs) == (None, (), {}, {})
    assert session.number["answers"] == 4


def test_few_answers_are_kept() -> None:
    session = opened(Sessions(), "one")
    results: list[Any] = [object() for _ in range(40)]
    for percent, result in enumerate(results, start=1):
        session.keep(Choice("tango", percent / 100), result)
    assert len(session.results) == 24
    assert list(session.results.values()) == results[-24:]


def test_few_clips_stay_encoded(demo: Clip) -> None:
    sessions = Sessions()
    pages = [opened(sessions, str(number)) for number in range(HELD_CLIPS + 2)]
    for session in pages:
        encoded: Any = object()
        session.clip, session.encoded = replace(demo), encoded
        sessions.encoded(session)
    assert [session.encoded is not None for session in pages] == [False] * 2 + [True] * HELD_CLIPS
    # Used again, it outlives the others.
    sessions.encoded(pages[2])
    newer: Any = object()
    pages[0].encoded = newer
    sessions.encoded(pages[0])
    assert pages[2].encoded is not None
    assert pages[3].encoded is None


def test_removing_a_file_that_is_gone(tmp_path: Path) -> None:
    sessions = Sessions()
    session = opened(sessions, "one")
    clip = uploaded(tmp_path, "a.mp4")
    sessions.choose(session, clip)
    clip.path.unlink()
    sessions.close("one")
