"""One vLLM engine in a process of its own, fed with requests that the tests make and read back by them.

Run as a script by `answers`: an engine leaves threads and distributed groups behind, and the plug-in of the tests'
own process must not decide whether another process has it.
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}
IN_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
WITHOUT_PLUGINS = {"VLLM_PLUGINS": ""}


@dataclass(frozen=True)
class Request:
    """A prompt with its media.

    Parameters
    ----------
    prompt: as the chat template writes it, with one placeholder a video or image.
    videos: frames ``(T, height, width, 3)`` uint8 and their metadata, or None for no metadata.
    images: ``(height, width, 3)`` uint8.
    retention: of this request, None for the engine's own.
    """

    prompt: str
    videos: tuple[tuple[np.ndarray, Mapping[str, Any] | None], ...] = ()
    images: tuple[np.ndarray, ...] = ()
    retention: object = None
    max_tokens: int = 6
    ignore_eos: bool = False

    def as_vllm(self) -> dict[str, Any]:
        """What `LLM.generate` takes."""
        from PIL import Image

        videos = [frames if metadata is None else (frames, dict(metadata)) for frames, metadata in self.videos]
        media = {"video": videos, "image": [Image.fromarray(image) for image in self.images]}
        given: dict[str, Any] = {
            "prompt": self.prompt,
            "multi_modal_data": {name: values for name, values in media.items() if values},
        }
        if self.retention is not None:
            given["mm_processor_kwargs"] = {"tango_retention": self.retention}
        return given


@dataclass(frozen=True)
class Reply:
    """What an engine said to a request."""

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
    """Replies of an engine of its own to batches of requests.

    Parameters
    ----------
    folder: for the files that travel.
    options: of `vllm.LLM`.
    """
    asked, told = folder / "asked.pickle", folder / "told.pickle"
    asked.write_bytes(pickle.dumps(Job(options, batches)))
    root = Path(__file__).parents[2]
    # A module that lies beside vLLM's own must not take its place: the script's folder is not on the path.
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.serve.engine", str(asked), str(told)],
        cwd=root,
        env=os.environ | ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        timeout=540,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return pickle.loads(told.read_bytes())


def _main(asked: Path, told: Path) -> None:
    from vllm import LLM, SamplingParams

    job: Job = pickle.loads(asked.read_bytes())
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

    told.write_bytes(pickle.dumps([ask(requests) for requests in job.batches]))


def _reply(output: Any) -> Reply:
    (text,) = output.outputs
    logprobs = [each[token].logprob for each, token in zip(text.logprobs, text.token_ids, strict=True)]
    return Reply(list(text.token_ids), logprobs, len(output.prompt_token_ids), output.num_cached_tokens or 0)


if __name__ == "__main__":
    # The classes in the pickles are those of the module, not of the script.
    from tests.support.serve import engine as this

    this._main(Path(sys.argv[1]), Path(sys.argv[2]))
