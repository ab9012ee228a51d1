"""Measure a vLLM server under load, pruned and unpruned: requests per second, time to first token, KV cache blocks."""

import json
import math
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from tangovlm.budget import validate_retention
from tangovlm.errors import InputError, ModelError
from tangovlm.kernels import variant
from tangovlm.machine.installation import install_command
from tangovlm.report.provenance import machine
from tangovlm.serve import compatibility
from tangovlm.serve.options import CONFIG_KEY, ServeOptions
from tangovlm.serve.videos import media_io
from tangovlm.video import FrameSampling

from ..tables import Column, number, text
from ..timing import TimedRow
from .load import Reply, drive, request
from .model import Served, data_urls, flops, write_checkpoint
from .process import serving

CONCURRENCIES = (1, 4, 16)
RETENTIONS = (1.0, 0.1)
KEYS = ("model", "frames", "concurrency", "retention", "dtype", "device", "machine", "threads")
"""The entries that identify a row: one with the same entries replaces another."""
COLUMNS = (
    Column("device", text("device")),
    Column("dtype", text("dtype")),
    Column("frames", text("frames")),
    Column("at a time", text("concurrency")),
    Column("kept", text("retention")),
    Column("prompt tokens", number("prompt_tokens", 0)),
    Column("KV blocks", number("kv_blocks", 0)),
    Column("times fewer", number("blocks_saving")),
    Column("requests/s", number("requests_s", 2)),
    Column("times more", number("speedup", 2)),
    Column("TTFT p50 ms", number("ttft_p50_ms", 0)),
    Column("TTFT p95 ms", number("ttft_p95_ms", 0)),
    Column("last token p50 ms", number("latency_p50_ms", 0)),
)

WARM_UP = 2
NEW_TOKENS = 16
_NAME = "load"
_QUESTION = "What color is the star?"
_DTYPE = "float32"
_WORDS = 64
_LEAST_REQUESTS, _TURNS = 10, 3
_OPTIONS = (
    "--served-model-name", _NAME, "--dtype", _DTYPE, "--enforce-eager",
    # Caches are off, although no clip is sent twice to one server.
    "--no-enable-prefix-caching", "--mm-processor-cache-gb", "0",
)  # fmt: skip


@dataclass(frozen=True)
class ServeRow(TimedRow):
    """One server at one concurrency; every request has a different clip.

    Parameters
    ----------
    retention: 1.0 is the same server without the option that turns pruning on.
    threads: number of CPU threads of the engine.
    tokens_before: visual tokens of a clip. prompt_tokens: tokens of a request, as the server counts them.
    concurrency: number of requests at the same time; a new one is sent when one ends.
    warm_up, repeats: number of requests before the first timed one, and of timed requests at this concurrency.
    new_tokens: number of tokens of each answer; the end-of-sequence token is ignored.
    kv_blocks: blocks of block_size tokens that a request occupies.
    requests_s: requests per second, from the start of the first request to the end of the last.
    ttft_p50_ms, ttft_p95_ms, latency_p50_ms: time from sending a request to its first token, and to its last.
    flops_ratio: FLOPs of the language model on the visual tokens of an unpruned clip over those of the tower, by
        PyTorch's counter.
    options: of the server. speedup, blocks_saving: relative to the unpruned row of the same concurrency.
    """

    model: str
    frames: int
    concurrency: int
    new_tokens: int
    prompt_tokens: int
    block_size: int
    kv_blocks: int
    requests_s: float
    ttft_p50_ms: float
    ttft_p95_ms: float
    latency_p50_ms: float
    flops_ratio: float
    options: tuple[str, ...]
    speedup: float | None = None
    blocks_saving: float | None = None


def run(
    *,
    frames: int = 64,
    concurrencies: Sequence[int] = CONCURRENCIES,
    retentions: Sequence[float] = RETENTIONS,
    requests: int | None = None,
    progress: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """Serve a random LLaVA-OneVision at each retention, and yield a row per concurrency.

    The unpruned server is always measured first.

    Parameters
    ----------
    requests: number of requests per concurrency; None for three times the concurrency, at least ten.
    progress: called with a line at the start of each step.

    Raises
    ------
    InputError: a retention outside (0, 1], numbers below 1, or vLLM is not installed.
    ModelError: the server does not start, fails, or does not prune.
    """
    if min(frames, *concurrencies, 1 if requests is None else requests) < 1:
        raise InputError("frames, concurrency and requests must be at least 1")
    for retention in retentions:
        validate_retention(retention)
    if find_spec("vllm") is None:
        raise InputError(f"vLLM is not installed: {install_command('vllm')}")
    levels = {each: requests or max(_LEAST_REQUESTS, _TURNS * each) for each in concurrencies}
    with tempfile.TemporaryDirectory() as folder:
        progress("making the weights and the clips")
        write_checkpoint(Path(folder))
        load = _Load(Path(folder), data_urls(WARM_UP + sum(levels.values()), frames), frames, levels, progress)
        stock: dict[int, ServeRow] = {}
        for retention in dict.fromkeys((1.0, *retentions)):
            for row in load.rows(retention):
                first = stock.setdefault(row.concurrency, row)
                if retention < 1 and row.prompt_tokens >= first.prompt_tokens:
                    raise ModelError("the server does not prune: the plug-in is not loaded, see VLLM_PLUGINS")
                speedup, saving = row.requests_s / first.requests_s, first.kv_blocks / row.kv_blocks
                yield asdict(replace(row, speedup=speedup, blocks_saving=saving))


class _Load:
    """The requests to every server.

    Parameters
    ----------
    model: directory of the checkpoint.
    videos: URLs, one per request.
    levels: concurrency to number of requests.
    """

    def __init__(
        self,
        model: Path,
        videos: Sequence[str],
        frames: int,
        levels: Mapping[int, int],
        progress: Callable[[str], None],
    ) -> None:
        self._model, self._videos, self._frames, self._levels = model, videos, frames, levels
        self._progress = progress
        language, tower = flops(frames)
        self._ratio = language / tower

    def rows(self, retention: float) -> Iterator[ServeRow]:
        """Start a server, and measure one concurrency after the other."""
        self._progress(f"retention {retention}: starting vLLM")
        bodies = iter([request(_NAME, video, _QUESTION, NEW_TOKENS) for video in self._videos])
        options, environment = _options(retention, self._frames), _environment()
        with serving(self._model, options, environment) as server:
            drive(server.port, list(islice(bodies, WARM_UP)), 1)
            for concurrency, count in self._levels.items():
                self._progress(f"retention {retention}: {count} requests, {concurrency} at a time")
                replies, seconds = drive(server.port, list(islice(bodies, count)), concurrency)
                yield ServeRow(
                    **self._settings(retention),
                    concurrency=concurrency,
                    repeats=count,
                    options=(*options, *(f"{name}={value}" for name, value in environment.items())),
                    **_figures(replies, seconds, server.block_size),
                )

    def _settings(self, retention: float) -> dict[str, Any]:
        """The entries of a row that are not measured."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        settings = machine(device)
        if device.type == "cpu":
            settings["threads"] = len(_cores())
        return settings | {
            "versions": settings["versions"] | {"vllm": compatibility.installed_release()},
            "retention": retention,
            "dtype": _DTYPE,
            "kernel": variant(device),
            "tokens_before": Served.visual_tokens(self._frames),
            "warm_up": WARM_UP,
            "model": Served.name,
            "frames": self._frames,
            "new_tokens": NEW_TOKENS,
            "flops_ratio": self._ratio,
        }


def _options(retention: float, frames: int) -> list[str]:
    """The options of a server. Without a retention below 1 the plug-in does not change the stock model."""
    # In addition to the video there are the question and the answer.
    longest = max(4096, Served.visual_tokens(frames) + _WORDS)
    options = [
        *_OPTIONS,
        "--max-model-len",
        str(longest),
        "--media-io-kwargs",
        json.dumps(media_io(FrameSampling(frames))),
    ]
    if retention == 1:
        return options
    return [*options, "--hf-overrides", json.dumps({CONFIG_KEY: ServeOptions(retention).as_mapping()})]


def _environment() -> dict[str, str]:
    """Environment variables of the server: no network access, and on CPUs one core is left to other processes."""
    quiet = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    if torch.cuda.is_available():
        return quiet
    return quiet | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, _cores()))}


def _cores() -> list[int]:
    """CPU cores of the engine."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    return cores[:-1] or cores


def _figures(replies: Sequence[Reply], seconds: float, block_size: int) -> dict[str, Any]:
    """The measured entries of a row."""
    firsts = [1000 * reply.first_token_s for reply in replies]
    prompt_tokens = max(reply.prompt_tokens for reply in replies)
    return {
        "prompt_tokens": prompt_tokens,
        "block_size": block_size,
        "kv_blocks": math.ceil((prompt_tokens + NEW_TOKENS) / block_size),
        "requests_s": len(replies) / seconds,
        "ttft_p50_ms": percentile(firsts, 50),
        "ttft_p95_ms": percentile(firsts, 95),
        "latency_p50_ms": percentile([1000 * reply.last_token_s for reply in replies], 50),
    }


def percentile(values: Sequence[float], percent: int) -> float:
    """A percentile with linear interpolation.

    >>> percentile([1.0, 2.0, 3.0], 50), percentile([4.0], 95)
    (2.0, 4.0)
    """
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
