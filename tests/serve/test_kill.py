"""Kill -9 of vLLM's server while two batch commands use it: one waits for it, one gives up and continues later."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tangovlm.tiny.clip import write_clip
from tangovlm.tiny.synthetic.sampling import sample_clip
from tests.support.serve.engine import ENVIRONMENT

pytest.importorskip("vllm")

CLIPS, QUESTIONS = 3, 16
# The log of a server that does not start is worth more than a test that never ends.
START_SECONDS, RUN_SECONDS = 240.0, 240.0


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows without ids about a few clips of the embedded model's world."""
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(CLIPS):
        write_clip(sample_clip(np.random.default_rng(number)), folder / f"{number}.mp4")
    rows = [
        {"video": f"{number % CLIPS}.mp4", "question": f"How many things are there? ({number})"}
        for number in range(CLIPS * QUESTIONS)
    ]
    path = folder / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@contextmanager
def command(log: Path, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """`tangovlm` in a session of its own, of which nothing is left in the end."""
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "tangovlm", *map(str, arguments)],
            env=os.environ | ENVIRONMENT,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        kill_9(process)


def kill_9(process: subprocess.Popen[bytes]) -> None:
    """Kill a session, whose first process may have ended already."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def until(what: Any, log: Path, seconds: float) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, log.read_text(errors="replace")[-4000:]
        time.sleep(0.1)


def count(path: Path) -> int:
    """Whole rows of a file."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def every_row_once(path: Path) -> None:
    """Fail unless each row is answered, and exactly once."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert Counter(row["id"] for row in rows) == Counter(range(1, CLIPS * QUESTIONS + 1))
    assert not [row for row in rows if "error" in row]


@pytest.fixture(scope="module")
def port() -> int:
    """A free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_kill_9_of_the_server(corpus: Path, tmp_path: Path, port: int) -> None:
    url, log = f"http://127.0.0.1:{port}", tmp_path / "server.log"
    small = ("--enforce-eager", "--max-model-len", 1024, "--max-num-seqs", 2)
    serve = ("serve", "--frames", 4, "--host", "127.0.0.1", "--port", port, *small)

    def ask(target: Path, give_up: float) -> tuple[object, ...]:
        asked = ("--server", url, "--video-root", corpus.parent, "--concurrency", 2, "--max-new-tokens", 4)
        return ("batch", corpus, target, *asked, "--give-up", give_up)

    patient, hasty = tmp_path / "patient.jsonl", tmp_path / "hasty.jsonl"
    patient_log, hasty_log = tmp_path / "patient.log", tmp_path / "hasty.log"
    with command(patient_log, *ask(patient, START_SECONDS)) as waits:
        with command(log, *serve) as server:
            until(lambda: count(patient) > 0, log, START_SECONDS)
            # Stopped, so that it has rows left when the server is killed, however slowly the other command starts.
            os.killpg(waits.pid, signal.SIGSTOP)
            with command(hasty_log, *ask(hasty, 0)) as gives_up:
                until(lambda: count(hasty) > 0, hasty_log, RUN_SECONDS)
                kill_9(server)
                os.killpg(waits.pid, signal.SIGCONT)
                assert gives_up.wait(RUN_SECONDS) == 1, hasty_log.read_text()
        told = hasty_log.read_text().splitlines()
        assert "has not answered for" in told[-1]
        assert told[-1].startswith("tangovlm: ")
        assert 0 < count(hasty) < CLIPS * QUESTIONS
        assert waits.poll() is None, patient_log.read_text()
        assert count(patient) < CLIPS * QUESTIONS
        with command(log, *serve):
            assert waits.wait(START_SECONDS + RUN_SECONDS) == 0, patient_log.read_text()
            with command(hasty_log, *ask(hasty, START_SECONDS)) as goes_on:
                assert goes_on.wait(RUN_SECONDS) == 0, hasty_log.read_text()
    assert "is back" in patient_log.read_text()
    every_row_once(patient)
    every_row_once(hasty)
