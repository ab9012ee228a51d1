"""Predicted cost of a run: GPU hours and memory, computed from shapes before a model is loaded.

Operations are counted from the shapes (`prefill_flops` for the language model). The rates are derived from the authors'
profile of LLaVA-OneVision-7B on an A800 (README of their release): 335.57 ms for the encoder and 80.64 ms for the
prefill of 10 % of the tokens. The same profile gives 146.59 ms for everything else on a video, 2 tokens per answer, and
3.3 s per question for reading and decoding its video. Nothing is measured here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tangovlm.budget import count, kept_per_layer
from tangovlm.machine.flops import prefill_flops

from .benchmarks import BENCHMARKS, Benchmark
from .models import LLAVA_ONEVISION, Shape, shape_of
from .paper import profile
from .rows import ResolvedRow

A800 = 312e12
"""Peak bfloat16 operations per second of an A800 or A100."""
PEAKS = {"H200": 989e12, "H100": 989e12, "H800": 989e12, "A800": A800, "A100": A800, "L40S": 362e12, "4090": 165e12}
"""Peak dense bfloat16 operations per second by a part of the GPU's name, as published by the vendor."""
AUTHORS = profile()
"""The authors' profile: 32 frames, 10 % of the tokens, 8 processes on the 2,700 questions of Video-MME."""
WAIT_S = (AUTHORS["total_runtime_s"] - AUTHORS["gpu_runtime_s"]) * 8 / BENCHMARKS["videomme"].questions
"""Time per question during which a process does not use its GPU."""
PROMPT_TOKENS, ANSWER_TOKENS = 150, 2
_RELEASE_TOKENS = 640 + PROMPT_TOKENS
_GB = 10**9


@dataclass(frozen=True)
class Cost:
    """Predicted cost of one row.

    Parameters
    ----------
    seconds: GPU time per question.
    busy_hours: GPU time of all questions.
    hours: the same, including the time that the GPU waits for videos.
    memory_gb: peak memory of one GPU, in 10^9 bytes.
    """

    seconds: float
    busy_hours: float
    hours: float
    memory_gb: float

    def as_dict(self) -> dict[str, float]:
        """The cost as JSON values, rounded to a meaningful precision."""
        return {
            "gpu_seconds_per_question": round(self.seconds, 3),
            "gpu_hours_busy": round(self.busy_hours, 2),
            "gpu_hours": round(self.hours, 2),
            "memory_gb": round(self.memory_gb, 1),
        }


def predict(resolved: ResolvedRow, shape: Shape, questions: int, peak: float = A800) -> Cost:
    """The cost of a row.

    Parameters
    ----------
    questions: number of questions.
    peak: peak operations per second of the GPU.
    """
    frames = resolved.row.frames
    lengths = _lengths(resolved, shape)
    speed = peak / A800
    seconds = (
        _tower_operations(shape, frames) / (_tower_rate() * speed)
        + _text_operations(shape, lengths) / (_text_rate() * speed)
        + AUTHORS["other_ms"] / 1000 * frames / 32 / speed
        + ANSWER_TOKENS
        / (AUTHORS["decode_tokens_per_s"] * speed)
        * shape.text.parameters
        / shape_of(LLAVA_ONEVISION).text.parameters
    )
    busy = seconds * questions / 3600
    return Cost(seconds, busy, busy + WAIT_S * questions / 3600, _bytes(shape, frames, lengths) / _GB)


def questions(benchmarks: Sequence[Benchmark], limit: int | None) -> int:
    """Number of questions over all benchmarks, at most `limit` of each."""
    return sum(each.questions if limit is None else min(limit, each.questions) for each in benchmarks)


def kept_tokens(resolved: ResolvedRow, shape: Shape) -> int:
    """Visual tokens that enter the language model, without newlines."""
    return count(resolved.before, shape.tokens_before(resolved.row.frames))


def peak_of(device_name: str) -> float | None:
    """Peak operations per second of a GPU; None for an unknown one."""
    return next((peak for name, peak in PEAKS.items() if name in device_name), None)


def totals(costs: Sequence[Cost], gpus: int) -> dict[str, Any]:
    """Total cost of several rows, with the wall-clock time on `gpus` GPUs."""
    hours = sum(cost.hours for cost in costs)
    return {
        "gpu_hours": round(hours, 1),
        "gpu_hours_busy": round(sum(cost.busy_hours for cost in costs), 1),
        "wall_hours": round(hours / gpus, 1),
        "memory_gb": round(max((cost.memory_gb for cost in costs), default=0.0), 1),
    }


def _lengths(resolved: ResolvedRow, shape: Shape) -> list[int]:
    """Tokens in each layer of the language model."""
    frames = resolved.row.frames
    visual = kept_tokens(resolved, shape)
    # A newline token is kept if its grid row keeps a token, as most grid rows do.
    text = PROMPT_TOKENS + shape.newlines_before(frames)
    shares = kept_per_layer(list(resolved.cuts), shape.text.layers)
    return [text + math.ceil(share * visual) for share in shares]


def _tower_operations(shape: Shape, frames: int) -> float:
    """Operations of the encoder, two per multiply-add: weights, and attention within a frame."""
    tower = shape.tower
    patches = frames * shape.patches / shape.frames_per_step
    attention = 2 * tower.layers * tower.hidden * shape.patches
    return 2 * patches * (tower.parameters + attention)


def _text_operations(shape: Shape, lengths: Sequence[int]) -> float:
    text = shape.text
    widths = {"hidden": text.hidden, "intermediate": text.intermediate}
    return 2.0 * prefill_flops(lengths, **widths, heads=text.heads, kv_heads=text.kv_heads)


def _tower_rate() -> float:
    """Operations per second of the encoder in the authors' profile."""
    return _tower_operations(shape_of(LLAVA_ONEVISION), 32) / (AUTHORS["vit_ms"] / 1000)


def _text_rate() -> float:
    """Operations per second of the language model in the authors' profile."""
    shape = shape_of(LLAVA_ONEVISION)
    return _text_operations(shape, [_RELEASE_TOKENS] * shape.text.layers) / (AUTHORS["prefill_ms"] / 1000)


def _bytes(shape: Shape, frames: int, lengths: Sequence[int]) -> float:
    """Weights, cache, and the larger of the activations of encoding and prefill."""
    text, tower = shape.text, shape.tower
    patches = math.ceil(frames / shape.frames_per_step) * shape.patches
    encoding = patches * max(2 * tower.hidden + 2 * tower.intermediate, 3 * text.hidden)
    longest = max(lengths)
    prefill = longest * (4 * text.hidden + 3 * text.intermediate)
    cache = sum(lengths) * text.cache_width / text.layers
    return shape.dtype_bytes * (text.parameters + tower.parameters + cache + max(encoding, prefill))
