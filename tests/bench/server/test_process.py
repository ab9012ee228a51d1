"""The process of the server in the load test: it starts, answers, and ends with all that it started."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tangovlm
from tangovlm.bench.server import process
from tangovlm.errors import ModelError

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")

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


def test_it_answers_and_ends_with_all_that_it_started(stand_in: dict[str, str], tmp_path: Path) -> None:
    with (
        contextlib.suppress(ZeroDivisionError),
        process.serving(tmp_path, ["--seed", "7"], stand_in) as server,
    ):
        assert server.block_size == 32
        told = Path(stand_in["TOLD"]).read_text()
        assert f"--model {tmp_path} --host 127.0.0.1 --port {server.port} --seed 7" in told
        raise ZeroDivisionError
    assert _gone(told)


def test_its_last_words(stand_in: dict[str, str], tmp_path: Path) -> None:
    refused = pytest.raises(ModelError, match="status 3: one line / and the reason")
    with refused, process.serving(tmp_path, ["--broken"], stand_in):
        raise AssertionError


def test_it_may_take_too_long(stand_in: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_START_S", 0)
    refused = pytest.raises(ModelError, match="did not answer within 0 s")
    with refused, process.serving(tmp_path, [], stand_in):
        raise AssertionError


def test_termination_of_the_benchmark_ends_it(stand_in: dict[str, str], tmp_path: Path) -> None:
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
    ) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == b"up\n"
        started.send_signal(signal.SIGTERM)
        assert started.wait(60) != 0
    assert _gone(Path(stand_in["TOLD"]).read_text())
