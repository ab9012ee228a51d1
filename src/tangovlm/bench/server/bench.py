"""Load on vLLM's OpenAI API with and without pruning: requests a second, time to first token, blocks of KV cache."""

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
from tangovlm.kernels.dispatch import variant
from tangovlm.report.provenance import machine
from tangovlm.serve import compat
from tangovlm.serve.command import media_io
from tangovlm.serve.options import CONFIG_KEY, ServeOptions

from ..measured import Measured
from ..tables import Column, number, text
from .load import Reply, drive, request
from .model import Served, data_urls, flops, write_checkpoint
from .process import serving

CONCURRENCIES = (1, 4, 16)
RETENTIONS = (1.0, 0.1)
KEYS = ("model", "frames", "concurrency", "retention", "dtype", "device", "machine", "threads")
"""What tells rows apart; a row with the same entries replaces another."""
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
    # Nothing may come from a cache, although no clip is sent twice to one server.
    "--no-enable-prefix-caching", "--mm-processor-cache-gb", "0",
)  # fmt: skip


@dataclass(frozen=True)
class ServeRow(Measured):
    """So many requests at a time to one server, each with a clip of its own.

    Parameters
    ----------
    retention: 1.0 is the same server without the option that switches pruning on.
    threads: that the engine computes with.
    tokens_before: visual tokens of a clip. prompt_tokens: of a request, as the server counts them.
    concurrency: requests at a time; a new one is sent when one is done.
    warm_up, repeats: requests that are not counted, before the first level, and requests of this level.
    new_tokens: of each answer; the end of a text is ignored.
    kv_blocks: that the tokens of a request fill, block_size tokens each.
    requests_s: all requests over the time from the first one's begin to the last one's end.
    ttft_p50_ms, ttft_p95_ms, latency_p50_ms: from sending a request to its first, and last, token.
    flops_ratio: work of the language model on the visual tokens of an unpruned clip over that of the tower, counted
        by PyTorch.
    options: of the server. speedup, blocks_saving: against the unpruned row of the same concurrency.
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
    """Serve a random LLaVA-OneVision once for each retention, and yield a row for each number of requests at a time.

    The unpruned server is measured first, whether it is asked for or not.

    Parameters
    ----------
    requests: of each level; None for three for each at a time, and at least ten.
    progress: is told what begins.

    Raises
    ------
    InputError: a retention outside (0, 1], numbers below 1, or no vLLM.
    ModelError: the server does not start, fails, or does not prune.
    """
    if min(frames, *concurrencies, 1 if requests is None else requests) < 1:
        raise InputError("frames, concurrency and requests must be at least 1")
    for retention in retentions:
        validate_retention(retention)
    if find_spec("vllm") is None:
        raise InputError("vLLM is not installed: pip install 'tangovlm[vllm]'")
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
    """The levels of load, the same for every server.

    Parameters
    ----------
    model: folder of the checkpoint.
    videos: URLs, one for each request.
    levels: requests at a time to requests.
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
        """Start a server, and measure one level after the other."""
        self._progress(f"retention {retention}: starting vLLM")
        bodies = iter([request(_NAME, video, _QUESTION, NEW_TOKENS) for video in self._videos])
        options, environment = _options(retention, self._frames), _environment()
        with serving(self._model, options, environment) as server:
            drive(server.port, list(islice(bodies, WARM_UP)), 1)
            for concurrency, count in self._levels.items():
                self._progress(f"retention {retention}: {count} requests, {concurrency} at a time")
                replies, seconds = drive(server.port, list(islice(bodies, count)), concurrency)
                yield ServeRow(
                    **self._facts(retention),
                    concurrency=concurrency,
                    repeats=count,
                    options=(*options, *(f"{name}={value}" for name, value in environment.items())),
                    **_figures(replies, seconds, server.block_size),
                )

    def _facts(self, retention: float) -> dict[str, Any]:
        """What is known beforehand."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        facts = machine(device)
        if device.type == "cpu":
            facts["threads"] = len(_cores())
        return facts | {
            "versions": facts["versions"] | {"vllm": compat.installed()},
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
    """Of a server; without a retention below 1 the plug-in leaves the stock model as it is."""
    # Beside the video there are some words and the answer.
    longest = max(4096, Served.visual_tokens(frames) + _WORDS)
    options = [*_OPTIONS, "--max-model-len", str(longest), "--media-io-kwargs", json.dumps(media_io(frames))]
    if retention == 1:
        return options
    return [*options, "--hf-overrides", json.dumps({CONFIG_KEY: ServeOptions(retention).as_mapping()})]


def _environment() -> dict[str, str]:
    """Variables of the server: nothing is asked of the network, and on CPUs one core is left to all but the engine."""
    quiet = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    if torch.cuda.is_available():
        return quiet
    return quiet | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, _cores()))}


def _cores() -> list[int]:
    """Cores for the engine."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    return cores[:-1] or cores


def _figures(replies: Sequence[Reply], seconds: float, block_size: int) -> dict[str, Any]:
    """What is measured of one level."""
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
    """The value that so many of a hundred do not exceed, between two neighbours in proportion.

    >>> percentile([1.0, 2.0, 3.0], 50), percentile([4.0], 95)
    (2.0, 4.0)
    """
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
