"""The engine that uses a running server, tested with one that fails on request."""

import base64
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tangovlm.batch import server_api
from tangovlm.batch.corpus import Task
from tangovlm.batch.engine import Outcome
from tangovlm.batch.server_api import ServerApi, ServerGoneError
from tangovlm.batch.server_engine import ServerEngine
from tangovlm.errors import InputError
from tangovlm.serve.videos import media_io
from tangovlm.video import FrameSampling

Reply = tuple[int, Any]
FINE = {"choices": [{"message": {"content": " four "}}], "usage": {"prompt_tokens": 31}}


def error(status: int, message: str) -> Reply:
    """The error response of an API."""
    return status, {"error": {"message": message}}


@dataclass
class Api4Tests:
    """A server: `chat` returns the response to a completion request; None breaks the connection."""

    chat: Callable[[dict[str, Any]], Reply | None] = lambda _body: (200, FINE)
    health: Callable[[], int] = lambda: 200
    models: Reply = (200, {"data": [{"id": "tiny"}]})
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def api() -> Iterator[Api4Tests]:
    """A server on loopback that answers "four" to everything."""
    told = Api4Tests()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.keys.append(self.headers["Authorization"])
            self.say(told.models if self.path == "/v1/models" else (told.health(), {}))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            told.bodies.append(body)
            reply = told.chat(body)
            if reply is None:
                self.connection.close()
            else:
                self.say(reply)

        def say(self, reply: Reply) -> None:
            status, content = reply
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        told.url = f"http://127.0.0.1:{listening.server_address[1]}"
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield told
        listening.shutdown()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_api, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(server_api, "LONGEST_PAUSE_SECONDS", 0.02)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two grey frames in a file whose name needs quoting."""
    path = tmp_path_factory.mktemp("clips") / "a clip#1.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(8))
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for _ in range(2):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 70, dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def tasks(clip: Path, count: int = 1, retention: float | None = None, **entries: Any) -> Iterator[Task]:
    """Questions about the clip."""
    return (Task(number, str(clip), f"What? {number}", retention, 5, **entries) for number in range(count))


def outcomes(server: ServerEngine, asked: Iterator[Task]) -> list[Outcome]:
    """Everything that a server answers, each task once."""
    found = list(server.answer(asked))
    assert max(Counter(outcome.task.id for outcome in found).values(), default=1) == 1
    return sorted(found, key=lambda outcome: outcome.task.id)


def number(body: dict[str, Any]) -> int:
    """Which task a request is."""
    return int(body["messages"][0]["content"][1]["text"].split()[-1])


def test_an_answer(api: Api4Tests, clip: Path) -> None:
    (outcome,) = outcomes(ServerEngine(ServerApi(api.url)), tasks(clip))
    (request_ms,) = outcome.fields["timings_ms"].values()
    assert request_ms > 0
    assert outcome.fields == {
        "answer": "four", "prompt_tokens": 31, "frame_times_s": None, "timings_ms": {"request": request_ms},
        "notes": [],
    }  # fmt: skip
    (body,) = api.bodies
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("tiny", 5, 0)
    assert {"mm_processor_kwargs", "media_io_kwargs"}.isdisjoint(body)
    kind, data = body["messages"][0]["content"][0]["video_url"]["url"].split(",")
    assert kind == "data:video/mp4;base64"
    assert base64.b64decode(data) == clip.read_bytes()


def test_settings_travel_only_where_they_are_given(api: Api4Tests, clip: Path) -> None:
    server = ServerEngine(ServerApi(api.url + "/v1/", "secret"), "tiny", retention=0.3, media="path")
    outcomes(server, tasks(clip, retention=0.3, sampling=FrameSampling(8)))
    (body,) = api.bodies
    assert body["mm_processor_kwargs"] == {"tango_retention": 0.3}
    assert body["media_io_kwargs"] == media_io(FrameSampling(8))
    assert body["messages"][0]["content"][0]["video_url"]["url"].endswith("/a%20clip%231.mp4")
    assert api.keys == ["Bearer secret"]


def test_a_part_of_a_video_is_sent_with_the_name_of_its_loader(api: Api4Tests, clip: Path) -> None:
    for sampling in (FrameSampling(start_s=1), FrameSampling(8, end_s=2, stream=0, seek="auto")):
        outcomes(ServerEngine(ServerApi(api.url)), tasks(clip, sampling=sampling))
    assert [body["media_io_kwargs"]["video"] for body in api.bodies] == [
        {"video_backend": "tangovlm", "start_s": 1},
        {"video_backend": "tangovlm", "num_frames": 8, "end_s": 2, "stream": 0, "seek": "auto"},
    ]


def test_a_rate_is_sent(api: Api4Tests, clip: Path) -> None:
    outcomes(ServerEngine(ServerApi(api.url)), tasks(clip, sampling=FrameSampling(fps=0.5, max_frames=9)))
    assert api.bodies[0]["media_io_kwargs"]["video"] == {"fps": 0.5, "num_frames": 9, "min_frames": 2, "max_frames": 9}


def test_no_more_requests_at_a_time_than_asked_for(api: Api4Tests, clip: Path) -> None:
    lock, now, most = threading.Lock(), 0, 0
    meet = threading.Barrier(3)

    def chat(_body: dict[str, Any]) -> Reply:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        meet.wait(30)
        with lock:
            now -= 1
        return 200, FINE

    api.chat = chat
    assert len(outcomes(ServerEngine(ServerApi(api.url), concurrency=3), tasks(clip, 12))) == 12
    assert most == 3


@pytest.mark.parametrize("broken", [None, (500, b"no JSON"), error(500, "engine"), (200, b"cut")])
def test_a_request_that_fails_by_itself_is_its_row_s_fault(api: Api4Tests, clip: Path, broken: Reply | None) -> None:
    api.chat = lambda body: broken if number(body) == 1 else (200, FINE)
    found = outcomes(ServerEngine(ServerApi(api.url), concurrency=1), tasks(clip, 3))
    assert [set(outcome.fields) & {"error", "answer"} for outcome in found] == [{"answer"}, {"error"}, {"answer"}]
    tries = 1 if broken == (200, b"cut") else 3
    assert len(api.bodies) == 2 + tries


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (error(400, "prompt too\nlong"), "prompt too long"),
        ((400, {"error": "prompt too long"}), "prompt too long"),
        ((400, {"detail": "prompt too long"}), "prompt too long"),
        ((422, {"detail": [{"loc": "body"}]}), "[{'loc': 'body'}]"),
        ((400, {}), "status 400"),
        ((400, ["odd"]), "status 400"),
        ((400, b"<html>"), "status 400"),
    ],
)
def test_what_the_server_refuses_is_written_down(api: Api4Tests, clip: Path, reply: Reply, words: str) -> None:
    api.chat = lambda _body: reply
    (outcome,) = outcomes(ServerEngine(ServerApi(api.url)), tasks(clip))
    assert outcome.fields == {"error": f"the server refused: {words}"}
    assert len(api.bodies) == 1


def test_a_server_without_the_loader_that_takes_parts(api: Api4Tests, clip: Path) -> None:
    """This is what vLLM 0.32 answers."""
    api.chat = lambda _body: error(500, "Extension class tangovlm not found")
    (outcome,) = outcomes(ServerEngine(ServerApi(api.url)), tasks(clip, sampling=FrameSampling(start_s=1)))
    assert outcome.fields["error"].startswith("the server cannot take a part of a video")
    assert len(api.bodies) == 1


def test_a_server_that_refuses_everything_does_not_get_the_whole_corpus(api: Api4Tests, clip: Path) -> None:
    api.chat = lambda body: (200, FINE) if number(body) == 30 else error(400, "no videos here")
    answers, found = ServerEngine(ServerApi(api.url), concurrency=1).answer(tasks(clip, 1000)), []
    with pytest.raises(InputError, match="32 rows one after another .* no videos here: fix that .* --retry-failed"):
        found.extend(answers)
    assert len(found) == 31 + 31


def test_a_server_that_came_back_with_another_model(api: Api4Tests, clip: Path) -> None:
    api.chat = lambda body: (200, FINE) if number(body) == 0 else error(404, "The model `tiny` does not exist.")
    answers = ServerEngine(ServerApi(api.url), concurrency=1).answer(tasks(clip, 9))
    assert "answer" in next(answers).fields
    with pytest.raises(InputError, match="no model tiny any more"):
        next(answers)


def test_files_are_looked_at_before_they_are_sent(api: Api4Tests, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    tasks = (
        Task(place, str(tmp_path / name), "What?", None, 5) for place, name in enumerate(["text.mp4", "missing.mp4"])
    )
    found = outcomes(ServerEngine(ServerApi(api.url)), tasks)
    assert ["not a video" in found[0].fields["error"], "No such file" in found[1].fields["error"]] == [True, True]
    assert api.bodies == []


def test_a_server_that_went_away_takes_no_row_with_it(api: Api4Tests, clip: Path) -> None:
    # Unavailable for more health checks than a row may fail.
    lock, away, went = threading.Lock(), 0, False

    def chat(body: dict[str, Any]) -> Reply | None:
        nonlocal away, went
        with lock:
            if number(body) == 2 and not went:
                away, went = 20, True
            return None if away else (200, FINE)

    def health() -> int:
        nonlocal away
        with lock:
            away = max(0, away - 1)
            return 503 if away else 200

    api.chat, api.health = chat, health
    talk: list[str] = []
    server = ServerEngine(ServerApi(api.url), concurrency=2, notify=talk.append)
    found = outcomes(server, tasks(clip, 6))
    assert all("answer" in outcome.fields for outcome in found)
    assert len(found) == 6
    assert "does not answer" in talk[0]
    assert "is back" in talk[1]


def test_a_server_that_stays_away(api: Api4Tests, clip: Path) -> None:
    api.chat, api.health = lambda body: (200, FINE) if number(body) == 0 else None, lambda: 503
    server = ServerEngine(ServerApi(api.url), concurrency=1, give_up_s=0.05)
    answers = server.answer(tasks(clip, 3))
    assert "answer" in next(answers).fields
    with pytest.raises(ServerGoneError, match="goes on from here"):
        next(answers)


def test_a_server_that_never_was(api: Api4Tests) -> None:
    with pytest.raises(ServerGoneError, match="127.0.0.1:9"):
        ServerEngine(ServerApi("http://127.0.0.1:9"), give_up_s=0)
    api.models, api.health = (503, {}), lambda: 503
    with pytest.raises(ServerGoneError):
        ServerEngine(ServerApi(api.url), give_up_s=0)


def test_a_busy_server_that_is_ill(api: Api4Tests, clip: Path) -> None:
    api.chat, api.health = lambda _body: error(503, "engine dead"), lambda: 503
    with pytest.raises(ServerGoneError):
        outcomes(ServerEngine(ServerApi(api.url), give_up_s=0.05), tasks(clip))


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_row_that_kills_the_server_again_and_again(api: Api4Tests, clip: Path, concurrency: int) -> None:
    lock, away, deaths = threading.Lock(), 0, 0

    def chat(body: dict[str, Any]) -> Reply | None:
        nonlocal away, deaths
        with lock:
            if number(body) == 2 and not away:
                away, deaths = 20, deaths + 1
            return None if away else (200, FINE)

    def health() -> int:
        nonlocal away
        with lock:
            away = max(0, away - 1)
            return 503 if away else 200

    api.chat, api.health = chat, health
    found = outcomes(ServerEngine(ServerApi(api.url), concurrency=concurrency), tasks(clip, 12))
    errors = {outcome.task.id: outcome.fields["error"] for outcome in found if "error" in outcome.fields}
    assert errors == {2: "the server became unavailable 5 times with this row in progress"}
    assert deaths <= 5 + 3


@pytest.mark.parametrize("health", [404, 401])
def test_health_is_not_every_server_s_page(api: Api4Tests, clip: Path, health: int) -> None:
    replies = iter([None, (200, FINE)])
    api.chat, api.health = lambda _body: next(replies), lambda: health
    (outcome,) = outcomes(ServerEngine(ServerApi(api.url), give_up_s=0), tasks(clip))
    assert "answer" in outcome.fields


def test_a_server_that_is_busy_for_ever(api: Api4Tests, clip: Path) -> None:
    api.chat = lambda _body: error(503, "no room")
    with pytest.raises(ServerGoneError, match="too busy for anything"):
        outcomes(ServerEngine(ServerApi(api.url), give_up_s=0.05), tasks(clip))
    api.models = (503, {})
    with pytest.raises(ServerGoneError, match="too busy for anything"):
        ServerEngine(ServerApi(api.url), give_up_s=0.05)


def test_a_server_that_is_busy_for_one_row_only(api: Api4Tests, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Any other row's answer shows that the server has room.
    monkeypatch.setattr(server_api.ServerMonitor, "check_answers", lambda _self: None)
    api.chat = lambda body: error(503, "no room") if number(body) == 1 else (200, FINE)
    found = outcomes(ServerEngine(ServerApi(api.url), give_up_s=0.05), tasks(clip, 3))
    assert [set(outcome.fields) & {"error", "answer"} for outcome in found] == [{"answer"}, {"error"}, {"answer"}]
    assert "too busy for this row" in found[1].fields["error"]


def test_no_proxy_is_asked_on_this_machine(api: Api4Tests, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    for host in ("127.0.0.1", "localhost"):
        url = api.url.replace("127.0.0.1", host)
        (outcome,) = outcomes(ServerEngine(ServerApi(url), give_up_s=0), tasks(clip))
        assert "answer" in outcome.fields


def test_a_busy_server_is_asked_again(api: Api4Tests, clip: Path) -> None:
    replies = iter([error(429, "busy")] * 5 + [(200, FINE)])
    api.chat = lambda _body: next(replies)
    (outcome,) = outcomes(ServerEngine(ServerApi(api.url)), tasks(clip))
    assert "answer" in outcome.fields


TRUST = "Start the server with --trust-request-mm-kwargs only when clients are trusted."


def test_settings_that_the_server_does_not_take(api: Api4Tests, clip: Path) -> None:
    api.chat = lambda _body: error(400, TRUST)
    with pytest.raises(InputError, match="--trust-request-mm-kwargs, or leave out"):
        outcomes(ServerEngine(ServerApi(api.url), retention=0.3), tasks(clip, retention=0.3))
    own = tasks(clip, retention=0.3, own_retention=True)
    (outcome,) = outcomes(ServerEngine(ServerApi(api.url)), own)
    assert "--trust-request-mm-kwargs" in outcome.fields["error"]


@pytest.mark.parametrize(
    ("models", "model", "words"),
    [
        ((200, {"data": [{"id": "a"}, {"id": "b"}]}), None, "a, b"),
        ((200, {"data": [{"id": "a"}]}), "c", "the server has a"),
        ((401, {}), None, "--api-key"),
        ((404, {}), None, "no OpenAI API"),
        ((200, b"<html>"), None, "no OpenAI API"),
        ((200, ["a"]), None, "no OpenAI API"),
    ],
)
def test_servers_of_another_kind(api: Api4Tests, models: Reply, model: str | None, words: str) -> None:
    api.models = models
    with pytest.raises(InputError, match=words):
        ServerEngine(ServerApi(api.url), model)


def test_a_key_that_is_withdrawn(api: Api4Tests, clip: Path) -> None:
    api.chat = lambda _body: error(401, "no")
    with pytest.raises(InputError, match="--api-key"):
        outcomes(ServerEngine(ServerApi(api.url)), tasks(clip))


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "file:///etc/passwd", "ftp://a", "http://"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(InputError, match="--server"):
        ServerApi(url)
