"""vLLM engines for tests, each in a process of its own that answers the requests of the tests and ends.

An engine leaves threads and distributed groups behind, and whether the tests' own process has loaded the plug-in must
not decide whether an engine has it. Importing vLLM takes longer than most engines run, so one process per test session
imports it (`_Launcher`), and every engine is a fork of that process, which has loaded neither a plug-in nor a model.
"""

import atexit
import json
import os
import pickle
import select
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    # Engines of two workers of pytest would be bound to the same core.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "CUDA_VISIBLE_DEVICES": "",
}
_FORKING = Path(__file__).parent / "forking"
FORKED = {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join(filter(None, [str(_FORKING), os.environ.get("PYTHONPATH")])),
}
"""Of a server or a command whose other processes are forks of its first one; see `forking.sitecustomize`."""
IN_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
WITHOUT_PLUGINS = {"VLLM_PLUGINS": ""}
RANKS = {"VLLM_CPU_OMP_THREADS_BIND": "0|1", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
"""Of two tensor-parallel ranks, in processes that import vLLM again."""
FORKED_RANKS = RANKS | {"VLLM_WORKER_MULTIPROC_METHOD": "fork"}
"""Of two tensor-parallel ranks, in forks of the engine; see `forking.sitecustomize`."""
TIMEOUT_S = 540
SAMPLES_PER_S = 16_000


@dataclass(frozen=True)
class Request:
    """A prompt with its media.

    Parameters
    ----------
    prompt: as the chat template writes it, with one placeholder per video or image.
    videos: frames ``(T, height, width, 3)`` uint8 and their metadata, or None for no metadata.
    images: ``(height, width, 3)`` uint8.
    sounds: ``(samples,)`` float32 at `SAMPLES_PER_S`.
    retention: of this request, None for the engine's own.
    """

    prompt: str
    videos: tuple[tuple[np.ndarray, Mapping[str, Any] | None], ...] = ()
    images: tuple[np.ndarray, ...] = ()
    sounds: tuple[np.ndarray, ...] = ()
    retention: object = None
    max_tokens: int = 6
    ignore_eos: bool = False

    def as_vllm(self) -> dict[str, Any]:
        """The prompt for `LLM.generate`."""
        from PIL import Image

        videos = [frames if metadata is None else (frames, dict(metadata)) for frames, metadata in self.videos]
        media = {
            "video": videos,
            "image": [Image.fromarray(image) for image in self.images],
            "audio": [(sound, SAMPLES_PER_S) for sound in self.sounds],
        }
        prompt: dict[str, Any] = {
            "prompt": self.prompt,
            "multi_modal_data": {name: values for name, values in media.items() if values},
        }
        if self.retention is not None:
            prompt["mm_processor_kwargs"] = {"tango_retention": self.retention}
        return prompt


@dataclass(frozen=True)
class Reply:
    """The answer of an engine to a request."""

    ids: list[int]
    logprobs: list[float]
    prompt_tokens: int
    cached_tokens: int
    error: str = ""


@dataclass(frozen=True)
class Job:
    """Batches of requests, one after the other, on one engine."""

    options: Mapping[str, Any]
    batches: Sequence[Sequence[Request]]


def answers(
    folder: Path,
    batches: Sequence[Sequence[Request]],
    *,
    environment: Mapping[str, str] = IN_PROCESS,
    **options: Any,
) -> list[list[Reply]]:
    """Replies of a new engine to batches of requests.

    Parameters
    ----------
    folder: for the files that are exchanged.
    options: of `vllm.LLM`.
    """
    job, replies, log = (folder / name for name in ("job.pickle", "replies.pickle", "engine.log"))
    job.write_bytes(pickle.dumps(Job(options, batches)))
    status = _launcher().run(job, replies, log, environment)
    assert status == 0, f"status {status}: {log.read_text(errors='replace')[-9000:]}"
    return pickle.loads(replies.read_bytes())


@cache
def _launcher() -> "_Launcher":
    return _Launcher()


class _Launcher:
    """A process that has imported vLLM and forks one process per engine; see `_serve`."""

    def __init__(self) -> None:
        # As a module, because a script adds its folder to the path, whose modules would hide those of the same name.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.serve.engine"],
            cwd=Path(__file__).parents[3],
            env=os.environ | ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        atexit.register(self._end)

    def _end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def run(self, job: Path, replies: Path, log: Path, environment: Mapping[str, str]) -> int:
        """Exit status of an engine that answers a job."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        order = {"job": str(job), "replies": str(replies), "log": str(log), "environment": dict(environment)}
        stdin.write(json.dumps(order).encode() + b"\n")
        stdin.flush()
        if not select.select([stdout], [], [], TIMEOUT_S)[0]:
            self._process.kill()
            raise TimeoutError(f"no answer within {TIMEOUT_S} s: {log.read_text(errors='replace')[-9000:]}")
        line = stdout.readline()
        assert line, "the process that starts engines has ended: see its messages above"
        return int(line)


def _serve() -> None:
    """Read one order per line from standard input, fork an engine for it, and write its exit status."""
    orders = sys.stdin.buffer
    statuses = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    # Used by every engine. These imports neither start a thread nor read the environment variables of an order.
    import vllm.v1.engine.core
    import vllm.v1.worker.cpu_worker  # noqa: F401
    from vllm import LLM, SamplingParams  # noqa: F401

    import_module("tests.support.serve.recurrent_float32").install()
    for line in orders:
        child = os.fork()
        if child == 0:
            _answer(**json.loads(line))
        _, status = os.waitpid(child, 0)
        statuses.write(f"{os.waitstatus_to_exitcode(status)}\n".encode())
        statuses.flush()


def _answer(job: str, replies: str, log: str, environment: Mapping[str, str]) -> None:
    """Run an engine in this process, a fork, and end it."""
    status = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for standard in (1, 2):
            os.dup2(descriptor, standard)
        os.environ.update(environment)
        if environment.get("VLLM_WORKER_MULTIPROC_METHOD") == "fork":
            import_module("tests.support.serve.forking.sitecustomize")
        _run(pickle.loads(Path(job).read_bytes()), Path(replies))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _run(job: Job, replies: Path) -> None:
    from vllm import LLM, SamplingParams

    defaults = {"dtype": "float32", "enforce_eager": True, "seed": 0}
    engine = LLM(**(defaults | dict(job.options)))

    def ask(requests: Sequence[Request]) -> list[Reply]:
        sampling = [
            SamplingParams(temperature=0, max_tokens=each.max_tokens, ignore_eos=each.ignore_eos, logprobs=1)
            for each in requests
        ]
        try:
            outputs = engine.generate([each.as_vllm() for each in requests], sampling, use_tqdm=False)
        except ValueError as error:
            return [Reply([], [], 0, 0, str(error))]
        return [_reply(output) for output in outputs]

    replies.write_bytes(pickle.dumps([ask(requests) for requests in job.batches]))
    # Processes of tensor-parallel ranks end with the engine.
    engine.llm_engine.engine_core.shutdown()


def _reply(output: Any) -> Reply:
    (text,) = output.outputs
    logprobs = [each[token].logprob for each, token in zip(text.logprobs, text.token_ids, strict=True)]
    return Reply(list(text.token_ids), logprobs, len(output.prompt_token_ids), output.num_cached_tokens or 0)


if __name__ == "__main__":
    # The classes in the pickles are those of the module, not of the script.
    from tests.support.serve import engine as this

    this._serve()
