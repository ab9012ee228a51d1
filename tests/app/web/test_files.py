"""Uploads, the clip of a page, and what can be saved, without a browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tangovlm.app.answering import Settings
from tangovlm.app.clips import Clip
from tangovlm.app.engine import Engine
from tangovlm.app.limits import Limits
from tangovlm.app.results import Choice
from tangovlm.app.sessions import Session
from tests.support.checkpoints import write_clip

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture
def client(gradio: None, engine: Engine, tmp_path: Path) -> Iterator[Any]:
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    from tangovlm.app.web.files import add_routes

    engine.limits = Limits(max_megabytes=0.5)
    app = FastAPI()
    (tmp_path / "uploads").mkdir()
    add_routes(app, engine, tmp_path / "uploads")
    with TestClient(app) as opened:
        yield opened


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4").read_bytes()


def stored(folder: Path) -> list[Path]:
    return list((folder / "uploads").iterdir())


def test_an_upload(client: Any, engine: Engine, video: bytes, tmp_path: Path) -> None:
    session = engine.sessions.get("one")
    assert session is not None
    answer = client.post(f"/clip/{session.token}?name=my%20holiday.mp4", content=video)
    assert (answer.status_code, answer.json()) == (200, {"name": "my holiday.mp4"})
    assert session.offered is not None
    assert (session.offered.name, session.offered.uploaded) == ("my holiday.mp4", True)
    assert [path.read_bytes() for path in stored(tmp_path)] == [video]
    engine.sessions.choose(session, session.offered)
    shown = client.get(f"/video/{session.token}")
    assert shown.content == video
    part = client.get(f"/video/{session.token}", headers={"range": "bytes=0-99"})
    assert (part.status_code, part.content) == (206, video[:100])
    engine.sessions.close("one")
    assert stored(tmp_path) == []
    assert client.get(f"/video/{session.token}").status_code == 404


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [(b"no video", 422, "a.mp4: not a video in a supported container"), (b"", 422, "a.mp4: the file is empty"),
     (b"x" * 500_001, 422, "a.mp4: 0.5 MB, and up to 0.5 MB are accepted")],
)  # fmt: skip
def test_files_that_are_refused(
    client: Any, engine: Engine, tmp_path: Path, content: bytes, status: int, words: str
) -> None:
    session = engine.sessions.get("one")
    assert session is not None
    lines: list[str] = []
    engine.log = lines.append
    for body in (content, iter([content])):
        answer = client.post(f"/clip/{session.token}?name=../../a.mp4", content=body)
        assert answer.status_code == status
        assert answer.json()["error"].startswith(words)
        assert lines.pop() == answer.json()["error"]
        assert session.offered is None
        assert stored(tmp_path) == []


def test_a_page_that_is_not_open(client: Any, video: bytes, tmp_path: Path) -> None:
    assert client.post("/clip/abc?name=a.mp4", content=video).status_code == 404
    assert stored(tmp_path) == []
    for address in ("/video/abc", "/run/abc.html", "/comparison/abc.csv"):
        assert client.get(address).status_code == 404


def test_what_can_be_saved(client: Any, engine: Engine, page: Callable[[str, Clip], Session], demo: Clip) -> None:
    session = page("one", demo)
    assert client.get(f"/run/{session.token}.html").status_code == 404
    assert client.get(f"/comparison/{session.token}.csv").status_code == 404
    choices = [Choice("tango", 1.0), Choice("tango", 0.1)]
    for part in ("answers", "comparison"):
        list(engine.run(session, part, demo.questions[0][0], choices, Settings(16)))
    saved = client.get(f"/run/{session.token}.html")
    assert saved.headers["content-disposition"] == 'attachment; filename="tangovlm-run.html"'
    assert saved.headers["cache-control"] == "no-store"
    for words in (demo.questions[0][0], "102", "tangovlm-tiny", demo.name):
        assert words in saved.text
    assert saved.text.startswith("<!doctype html>")
    table = client.get(f"/comparison/{session.token}.csv")
    assert table.text.splitlines()[1].startswith('"Demo, 8 s",16,')


def test_names_that_are_shown(gradio: None) -> None:
    from tangovlm.app.web.files import shown_name

    assert shown_name("../../etc/a b.mp4") == "a b.mp4"
    assert shown_name("C:\\videos\\a.mp4") == "a.mp4"
    assert shown_name("a\x1b[31m\n.mp4") == "a[31m.mp4"
    assert shown_name("..") == ".."
    assert shown_name("100%20 \u00e4.mp4") == "100%20 \u00e4.mp4"
    assert shown_name("\n") == "clip"
    assert len(shown_name("x" * 500)) < 130
