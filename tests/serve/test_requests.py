"""The OpenAI API of a real server: bad requests get a status of their own and a reason, and good ones are answered."""

import base64
import http.client
import io
import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

import tangovlm
from tangovlm.bench.server.process import HOST, Server, serving
from tangovlm.budget import count
from tangovlm.pipeline.load import BUILTIN
from tangovlm.tiny.clip import write_demo
from tests.support.serve.engine import ENVIRONMENT, FORKED

pytest.importorskip("vllm")

MODEL = "tiny"
FRAMES, FRAME_TOKENS, RETENTION = 16, 64, 0.1
ALLOWED = "videos.invalid"
GOOD_ANSWER = "red"
"""To the first question about the demonstration."""
OPTIONS = (
    "--served-model-name", MODEL, "--dtype", "float32", "--enforce-eager", "--max-model-len", "4096",
    "--hf-overrides", json.dumps({"tango": {"retention": RETENTION}}),
    "--media-io-kwargs", json.dumps({"video": {"num_frames": FRAMES}}),
    "--allowed-media-domains", ALLOWED, "--trust-request-mm-kwargs",
)  # fmt: skip


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The only folder of which the server may read files."""
    return tmp_path_factory.mktemp("media")


@pytest.fixture(scope="module")
def server(media: Path) -> Iterator[Server]:
    with serving(BUILTIN, [*OPTIONS, "--allowed-local-media-path", str(media)], ENVIRONMENT | FORKED) as running:
        yield running


@pytest.fixture(scope="module")
def demo(media: Path) -> tuple[Path, list[str]]:
    """The clip of `tangovlm demo`, and questions about it."""
    path = media / "clip.mp4"
    return path, [question for question, _ in write_demo(path)]


@pytest.fixture(scope="module")
def good(demo: tuple[Path, list[str]]) -> dict[str, Any]:
    path, questions = demo
    return body(url(path.read_bytes()), questions[0])


def url(data: bytes, kind: str = "video/mp4") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def body(video: object, text: str = "What color is the star?", **more: Any) -> dict[str, Any]:
    """Of a request; None for no video."""
    parts = [] if video is None else [{"type": "video_url", "video_url": {"url": video}}]
    content = [*parts, {"type": "text", "text": text}]
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], "temperature": 0} | more


def clip(frames: int) -> bytes:
    """A video of so many small grey frames."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(8), options={"preset": "ultrafast"})
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            picture = np.full((32, 32, 3), number % 256, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def post(server: Server, content: dict[str, Any] | str) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection(HOST, server.port, timeout=120)
    try:
        text = content if isinstance(content, str) else json.dumps(content)
        connection.request("POST", "/v1/chat/completions", text, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def refused(
    server: Server, content: dict[str, Any] | str, good: dict[str, Any], *words: str, status: int = 400
) -> None:
    """Fail unless a request gets this status and a reason with the words, and a good one is answered after it."""
    found, answer = post(server, content)
    assert found == status, answer
    message = answer["error"]["message"]
    assert "Traceback" not in message
    for word in words:
        assert word in message
    assert server.process.poll() is None
    status, answer = post(server, good)
    assert (status, said(answer)) == (200, GOOD_ANSWER)


def said(answer: dict[str, Any]) -> str:
    text: str = answer["choices"][0]["message"]["content"]
    return text.strip()


def test_answers_are_those_of_the_library(server: Server, demo: tuple[Path, list[str]]) -> None:
    path, questions = demo
    answers = [post(server, body(url(path.read_bytes()), question)) for question in questions]
    assert [status for status, _ in answers] == [200] * len(questions)
    expected = [str(tangovlm.ask(path, question, frames=FRAMES, retention=RETENTION)) for question in questions]
    assert [said(answer) for _, answer in answers] == expected
    assert (len(expected) > 4, expected[0]) == (True, GOOD_ANSWER)


def test_a_file(server: Server, demo: tuple[Path, list[str]], good: dict[str, Any]) -> None:
    path, questions = demo
    status, answer = post(server, body(f"file://{path}", questions[0]))
    assert (status, said(answer)) == (200, GOOD_ANSWER)
    refused(server, body(f"file://{path.with_name('none.mp4')}"), good, "No such file")


@pytest.mark.parametrize("retention", [1.0, 0.5, 0.2])
def test_a_request_may_have_a_retention_of_its_own(server: Server, good: dict[str, Any], retention: float) -> None:
    status, usual = post(server, good)
    status, own = post(server, good | {"mm_processor_kwargs": {"tango_retention": retention}})
    assert status == 200
    more = count(retention, FRAMES * FRAME_TOKENS) - count(RETENTION, FRAMES * FRAME_TOKENS)
    assert own["usage"]["prompt_tokens"] - usual["usage"]["prompt_tokens"] == more


def test_no_video(server: Server) -> None:
    status, answer = post(server, body(None))
    assert status == 200
    assert answer["usage"]["prompt_tokens"] < 20


@pytest.mark.parametrize(
    "retention", [7, 0, -0.1, True, "x", [0.1], float("nan"), float("inf"), 10**400], ids=lambda value: f"{value}"[:5]
)
def test_retention(server: Server, good: dict[str, Any], retention: object) -> None:
    wrong = good | {"mm_processor_kwargs": {"tango_retention": retention}}
    refused(server, wrong, good, "tango_retention", "must be a number in (0, 1]", repr(retention)[:100])


def test_unknown_option(server: Server, good: dict[str, Any]) -> None:
    wrong = good | {"mm_processor_kwargs": {"tango_retentoin": 0.1}}
    refused(server, wrong, good, "'tango_retentoin'", "it takes tango_retention")


def test_frames_of_another_size(server: Server, good: dict[str, Any]) -> None:
    """They would end the engine: the tower has no positions for them."""
    refused(server, good | {"mm_processor_kwargs": {"size": {"height": 56, "width": 56}}}, good, "56", "112")
    refused(server, good | {"mm_processor_kwargs": {"do_resize": False}}, good, "448", "112")


@pytest.mark.parametrize("data", [b"", b"no video" * 100, clip(20)[:400], clip(20)[:-400]])
def test_corrupt_video(server: Server, good: dict[str, Any], data: bytes) -> None:
    refused(server, body(url(data)), good, "video")


def part(video: Path, question: str, **options: Any) -> dict[str, Any]:
    """A request for a part of a video."""
    own = {"video_backend": "tangovlm"} | options
    return body(url(video.read_bytes()), question, media_io_kwargs={"video": own})


def test_parts_of_one_video_are_not_mixed_up(server: Server, demo: tuple[Path, list[str]]) -> None:
    """Of the same bytes, with the same question and number of frames, so that only the part tells them apart."""
    path, (question, *_) = demo
    parts: list[dict[str, Any]] = [{"end_s": 2.5}, {"start_s": 2.5, "end_s": 5.0}, {"start_s": 5.0}]
    expected = [str(tangovlm.ask(path, question, frames=FRAMES, retention=RETENTION, **each)) for each in parts]
    assert len(set(expected)) == 3
    for order in ((0, 1, 2), (2, 1, 0)):
        answers = {number: post(server, part(path, question, num_frames=FRAMES, **parts[number])) for number in order}
        assert [(answers[number][0], said(answers[number][1])) for number in range(3)] == [
            (200, each) for each in expected
        ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start_s": 1000}, ("the start is 1000 s", "the video ends at")),
        ({"start_s": 3, "end_s": 2}, ("the end (2 s) is not after the start (3 s)",)),
        ({"start_s": "soon"}, ("the start is 'soon'",)),
        ({"stream": 7}, ("stream",)),
        ({"start": 1}, ("no option 'start'", "start_s")),
        ({"start_s": 1, "video_backend": "opencv"}, ("'start_s'", "'video_backend': 'tangovlm'")),
    ],
)
def test_a_bad_part(
    server: Server, demo: tuple[Path, list[str]], good: dict[str, Any], options: dict[str, Any], words: tuple[str, ...]
) -> None:
    refused(server, part(demo[0], "What?", **options), good, *words)


def test_ten_thousand_frames(server: Server, good: dict[str, Any]) -> None:
    long = body(url(clip(10_000)))
    # Sampled, they are as good as any.
    assert post(server, long)[0] == 200
    wrong = long | {"media_io_kwargs": {"video": {"num_frames": -1}}}
    refused(server, wrong, good, "64000", "4096")


def test_one_frame(server: Server, good: dict[str, Any]) -> None:
    """The loader of vLLM returns no frame of it."""
    refused(server, body(url(clip(1))), good, "no frame")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://127.0.0.1:1/clip.mp4", ("allowed domains", ALLOWED)),
        ("https://example.com/clip.mp4", ("allowed domains", ALLOWED)),
        ("file:///etc/hostname", ("--allowed-local-media-path",)),
        ("ftp://example.com/clip.mp4", ("HTTP, data or file",)),
        ("clip.mp4", ("HTTP, data or file",)),
        ("data:video/mp4,abc", ("base64",)),
        ("data:video/mp4;base64,@@", ("base64",)),
        (5, ("valid string",)),
    ],
)
def test_urls(server: Server, good: dict[str, Any], address: object, words: tuple[str, ...]) -> None:
    refused(server, body(address), good, *words)


def test_malformed(server: Server, good: dict[str, Any]) -> None:
    refused(server, good | {"model": "other"}, good, "`other` does not exist", status=404)
    refused(server, {"model": MODEL}, good, "messages")
    refused(server, '{"model": ', good, "JSON")
    refused(server, good | {"mm_processor_kwargs": [1]}, good, "dictionary")
    message = {"role": "user", "content": [{"type": "video_url"}]}
    refused(server, good | {"messages": [message]}, good, "video_url")


def test_what_was_pruned_is_counted(server: Server, good: dict[str, Any]) -> None:
    def counters() -> dict[str, float]:
        lines = [line.split(" ") for line in server.get("/metrics")[1].splitlines() if line.startswith("tangovlm:")]
        return {name.partition("{")[0]: float(value) for name, value in lines}

    before = counters()
    fresh = body(url(clip(FRAMES + 5)))
    assert post(server, fresh)[0] == 200
    found = {name: value - before[name] for name, value in counters().items() if name.endswith("_total")}
    everything = FRAMES * FRAME_TOKENS
    assert found == {
        "tangovlm:videos_total": 1,
        "tangovlm:video_tokens_before_total": everything,
        "tangovlm:video_tokens_after_total": count(RETENTION, everything),
    }
