"""The load test: its checkpoint and clips, its client against a server of a few lines, its server's end, its rows."""

import base64
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
from transformers import LlavaOnevisionForConditionalGeneration

import tangovlm
from tangovlm.bench.server import bench as serve
from tangovlm.bench.server import load as serve_load
from tangovlm.bench.server import process as serve_server
from tangovlm.bench.server.load import Reply
from tangovlm.bench.server.model import Served, data_urls, flops, write_checkpoint
from tangovlm.bench.tables import markdown
from tangovlm.errors import InputError, ModelError

BODY = serve_load.request("load", "data:,", "What?", 3)
# What vLLM sends: the role without a token, the tokens, the usage of all, and the end.
COUNTS = [0, 1, 2, 3, 3]


def event(tokens: int) -> bytes:
    usage = {"prompt_tokens": 7, "completion_tokens": tokens}
    return b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n"


class Answers(BaseHTTPRequestHandler):
    """Streams `COUNTS`, and knows how many requests are read at a time."""

    protocol_version = "HTTP/1.0"
    now, most, seen = 0, 0, 0
    lock = threading.Lock()

    def do_POST(self) -> None:
        cls = type(self)
        with cls.lock:
            cls.now, cls.seen = cls.now + 1, cls.seen + 1
            cls.most = max(cls.most, cls.now)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        refused = body["model"] == "other"
        self.send_response(404 if refused else 200)
        self.end_headers()
        time.sleep(0.05)
        with cls.lock:
            cls.now -= 1
        self.wfile.write(b"no such model" if refused else b"".join(map(event, COUNTS)) + b"data: [DONE]\n\n")

    def log_message(self, format: str, *args: Any) -> None:
        """Not a word."""


@pytest.fixture
def port() -> Iterator[int]:
    Answers.now = Answers.most = Answers.seen = 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


class TestClient:
    @pytest.mark.parametrize("concurrency", [1, 3])
    def test_so_many_at_a_time(self, port: int, concurrency: int) -> None:
        replies, seconds = serve_load.drive(port, [BODY] * 7, concurrency)
        assert (Answers.seen, len(replies)) == (7, 7)
        assert Answers.most <= concurrency
        assert seconds > 0
        assert {(reply.prompt_tokens, reply.new_tokens) for reply in replies} == {(7, 3)}

    def test_the_first_token_is_not_the_role(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ticks = iter(range(100, 200))
        monkeypatch.setattr(serve_load, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
        lines = [b": comment\n", *map(event, COUNTS), b"data: [DONE]\n"]
        # The clock is looked at with the three events that bring a token.
        assert serve_load._read(lines, 90.0) == Reply(10.0, 12.0, 7, 3)

    def test_refusals_and_broken_streams(self, port: int) -> None:
        with pytest.raises(ModelError, match="status 404: no such model"):
            serve_load.drive(port, [BODY | {"model": "other"}] * 3, 2)
        with pytest.raises(ModelError, match="sent no token"):
            serve_load._read([event(0)], 0.0)
        with pytest.raises(ModelError, match="out of memory"):
            serve_load._read([b'data: {"error": {"message": "out of memory"}}\n'], 0.0)

    def test_nobody_there(self) -> None:
        with pytest.raises(ModelError, match="stopped answering"):
            serve_load.ask(serve_server._free_port(), BODY)


class TestModel:
    def test_work_of_model_and_tower(self) -> None:
        language, tower = flops(64)
        assert 3.5 < language / tower < 4.5

    def test_checkpoint_is_stock_and_prunes(self, tmp_path: Path) -> None:
        write_checkpoint(tmp_path)
        model = LlavaOnevisionForConditionalGeneration.from_pretrained(tmp_path)
        (tmp_path / "clip.mp4").write_bytes(_decoded(data_urls(1, 8)[0]))
        answer = tangovlm.ask(tmp_path / "clip.mp4", "What color is the star?", model=tmp_path, frames=8)
        assert (answer.tokens_before, answer.tokens_after) == (Served.visual_tokens(8), 13)
        assert not any("pooling head" in note for note in answer.notes)
        assert model.dtype == torch.float32

    def test_clips_differ(self) -> None:
        first, second = data_urls(2, 5)
        frames = [_frames(_decoded(url)) for url in (first, second)]
        assert [len(each) for each in frames] == [5, 5]
        assert frames[0][0].shape == (112, 112, 3)
        assert np.abs(frames[0][0].astype(int) - frames[1][0]).mean() > 20


def _decoded(url: str) -> bytes:
    return base64.b64decode(url.removeprefix("data:video/mp4;base64,"), validate=True)


def _frames(data: bytes) -> list[np.ndarray]:
    with av.open(io.BytesIO(data)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


STAND_IN = """
import http.server, os, subprocess, sys

child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(os.environ["TOLD"], "w").write(f"{os.getpid()} {child.pid} {' '.join(sys.argv[1:])}")
if "--broken" in sys.argv:
    print("one line", "and the reason", sep=os.linesep)
    child.kill()
    sys.exit(3)

class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        if self.path == "/metrics":
            self.wfile.write(b'vllm:cache_config_info{a="1",block_size="32",engine="0"} 1.0')

    def log_message(self, *args):
        pass

http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Page).serve_forever()
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> dict[str, str]:
    """An environment in which vLLM's server is a script with a child, and writes the ids of both to a file."""
    module = tmp_path / "path" / "vllm" / "entrypoints" / "openai" / "api_server.py"
    module.parent.mkdir(parents=True)
    for folder in (module.parent, module.parents[1], module.parents[2]):
        (folder / "__init__.py").touch()
    module.write_text(STAND_IN)
    return {"PYTHONPATH": str(tmp_path / "path"), "TOLD": str(tmp_path / "told")}


def _gone(told: str) -> bool:
    """Whether a server and its child have ended, a moment granted."""
    for _ in range(100):
        left = [each for each in told.split()[:2] if Path(f"/proc/{each}/stat").exists() and not _is_zombie(each)]
        if not left:
            return True
        time.sleep(0.1)
    return False


def _is_zombie(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
class TestServer:
    def test_it_answers_and_ends_with_all_that_it_started(self, stand_in: dict[str, str], tmp_path: Path) -> None:
        with (
            contextlib.suppress(ZeroDivisionError),
            serve_server.serving(tmp_path, ["--seed", "7"], stand_in) as server,
        ):
            assert server.block_size == 32
            told = Path(stand_in["TOLD"]).read_text()
            assert f"--model {tmp_path} --host 127.0.0.1 --port {server.port} --seed 7" in told
            raise ZeroDivisionError
        assert _gone(told)

    def test_its_last_words(self, stand_in: dict[str, str], tmp_path: Path) -> None:
        refused = pytest.raises(ModelError, match="status 3: one line / and the reason")
        with refused, serve_server.serving(tmp_path, ["--broken"], stand_in):
            raise AssertionError

    def test_it_may_take_too_long(
        self, stand_in: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(serve_server, "_START_S", 0)
        refused = pytest.raises(ModelError, match="did not answer within 0 s")
        with refused, serve_server.serving(tmp_path, [], stand_in):
            raise AssertionError

    def test_termination_of_the_benchmark_ends_it(self, stand_in: dict[str, str], tmp_path: Path) -> None:
        lines = [
            "import sys, time",
            "from tangovlm.bench.server.process import serving",
            f"with serving({str(tmp_path)!r}, []):",
            "    print('up', flush=True)",
            "    time.sleep(600)",
        ]
        source = str(Path(tangovlm.__file__).parents[1])
        environment = os.environ | stand_in | {"PYTHONPATH": os.pathsep.join([stand_in["PYTHONPATH"], source])}
        with subprocess.Popen(
            [sys.executable, "-c", "\n".join(lines)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) != 0
        assert _gone(Path(stand_in["TOLD"]).read_text())


class TestRows:
    @pytest.fixture
    def started(self, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
        """Options of the servers that a run starts, which are none."""
        options: list[list[str]] = []

        @contextlib.contextmanager
        def serving(model: Path, given: list[str], environment: dict[str, str]) -> Iterator[Any]:
            assert (model / "model.safetensors").is_file()
            options.append(given)
            yield SimpleNamespace(port=1, block_size=32)

        def drive(port: int, bodies: list[dict[str, Any]], concurrency: int) -> tuple[list[Reply], float]:
            pruned = any("tango" in option for option in options[-1])
            tokens = 108 if pruned else 1030
            texts = {json.dumps(body) for body in bodies}
            assert len(texts) == len(bodies)
            replies = [Reply(place + 1.0, place + 2.0, tokens, 16) for place in range(len(bodies))]
            return replies, len(bodies) * (0.5 if pruned else 1.0)

        monkeypatch.setattr(serve, "serving", serving)
        monkeypatch.setattr(serve, "drive", drive)
        monkeypatch.setattr(serve, "find_spec", lambda name: object())
        return options

    def test_each_beside_its_unpruned_row(self, started: list[list[str]]) -> None:
        told: list[str] = []
        rows = list(serve.run(frames=4, concurrencies=[1, 4], retentions=[0.1], requests=5, progress=told.append))
        assert [(row["retention"], row["concurrency"]) for row in rows] == [(1.0, 1), (1.0, 4), (0.1, 1), (0.1, 4)]
        assert [row["requests_s"] for row in rows] == [1.0, 1.0, 2.0, 2.0]
        assert [row["speedup"] for row in rows] == [1.0, 1.0, 2.0, 2.0]
        # 1,030 or 108 tokens of the prompt and 16 of the answer in blocks of 32.
        assert [row["kv_blocks"] for row in rows] == [33, 33, 4, 4]
        assert rows[-1]["blocks_saving"] == 33 / 4
        assert [(row["ttft_p50_ms"], row["latency_p50_ms"]) for row in rows] == [(3000.0, 4000.0)] * 4
        assert rows[0]["ttft_p95_ms"] == pytest.approx(4800)
        assert rows[0]["versions"].keys() >= {"vllm", "torch"}
        assert set(rows[0]) == set(serve.ServeRow.__dataclass_fields__)
        json.dumps(rows, allow_nan=False)
        assert "| 33 " in markdown(rows, serve.COLUMNS)
        assert "5 requests, 4 at a time" in told[-1]
        # The two servers differ in what switches pruning on, and in nothing else.
        stock, pruned = started
        assert pruned[: len(stock)] == stock
        assert pruned[len(stock) :] == ["--hf-overrides", '{"tango": {"retention": 0.1}}']

    def test_number_of_requests(self, started: list[list[str]]) -> None:
        rows = list(serve.run(frames=2, concurrencies=[1, 5], retentions=[1.0], progress=lambda words: None))
        assert [row["repeats"] for row in rows] == [10, 15]

    @pytest.mark.parametrize("wrong", [{"frames": 0}, {"concurrencies": [0]}, {"requests": 0}, {"retentions": [7]}])
    def test_wrong_numbers(self, started: list[list[str]], wrong: dict[str, Any]) -> None:
        with pytest.raises(InputError, match=r"at least 1|in \(0, 1\]"):
            next(serve.run(progress=lambda words: None, **wrong))
        assert started == []
