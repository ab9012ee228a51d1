"""What a run will take: GPU hours and memory, predicted from shapes before anything is loaded.

Operations are counted from the shapes (`prefill_flops` for the language model). How much of a GPU's peak they
reach is taken from the authors' own profile of LLaVA-OneVision-7B on an A800 (README of their release): 335.57 ms for
the encoder and 80.64 ms for reading 10 % of the tokens. So are the 146.59 ms of everything else on a video, the 2 words
of an answer, and the 3.3 s that a question waits for its video to be read and decoded. Nothing here is measured.
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
from .rows import Planned

A800 = 312e12
"""Peak operations a second in bfloat16, of the A100 too."""
PEAKS = {"H200": 989e12, "H100": 989e12, "H800": 989e12, "A800": A800, "A100": A800, "L40S": 362e12, "4090": 165e12}
"""Peak dense bfloat16 operations a second by a part of the GPU's name, as their maker publishes them."""
AUTHORS = profile()
"""The authors' profile: 32 frames, 10 % of the tokens, 8 processes on the 2,700 questions of Video-MME."""
WAIT_S = (AUTHORS["total_runtime_s"] - AUTHORS["gpu_runtime_s"]) * 8 / BENCHMARKS["videomme"].questions
"""Time of a process that was not the GPU's, for each question."""
PROMPT_TOKENS, ANSWER_TOKENS = 150, 2
_RELEASE_TOKENS = 640 + PROMPT_TOKENS
_GB = 10**9


@dataclass(frozen=True)
class Cost:
    """Of one row.

    Parameters
    ----------
    seconds: of the GPU for one question, until the answer is there.
    busy_hours: GPU hours of all questions. hours: with the time that they wait for videos.
    memory_gb: of one GPU at most, in 10^9 bytes.
    """

    seconds: float
    busy_hours: float
    hours: float
    memory_gb: float

    def as_dict(self) -> dict[str, float]:
        """Rounded to what a prediction is good for."""
        return {
            "gpu_seconds_per_question": round(self.seconds, 3),
            "gpu_hours_busy": round(self.busy_hours, 2),
            "gpu_hours": round(self.hours, 2),
            "memory_gb": round(self.memory_gb, 1),
        }


def predict(planned: Planned, shape: Shape, questions: int, peak: float = A800) -> Cost:
    """What a row takes on GPUs with that many operations a second at peak."""
    frames = planned.row.frames
    lengths = _lengths(planned, shape)
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
    """How many are asked."""
    return sum(each.questions if limit is None else min(limit, each.questions) for each in benchmarks)


def kept_tokens(planned: Planned, shape: Shape) -> int:
    """Visual tokens that enter the language model, without newlines."""
    return count(planned.before, shape.tokens_before(planned.row.frames))


def peak_of(device_name: str) -> float | None:
    """Peak operations a second of a GPU; None for one that is not known."""
    return next((peak for name, peak in PEAKS.items() if name in device_name), None)


def totals(costs: Sequence[Cost], gpus: int) -> dict[str, Any]:
    """Of a whole plan."""
    hours = sum(cost.hours for cost in costs)
    return {
        "gpu_hours": round(hours, 1),
        "gpu_hours_busy": round(sum(cost.busy_hours for cost in costs), 1),
        "wall_hours": round(hours / gpus, 1),
        "memory_gb": round(max((cost.memory_gb for cost in costs), default=0.0), 1),
    }


def _lengths(planned: Planned, shape: Shape) -> list[int]:
    """Tokens in each layer of the language model."""
    frames = planned.row.frames
    visual = kept_tokens(planned, shape)
    # A newline stays where its row keeps a token, which most rows do.
    text = PROMPT_TOKENS + shape.newlines_before(frames)
    shares = kept_per_layer(list(planned.cuts), shape.text.layers)
    return [text + math.ceil(share * visual) for share in shares]


def _tower_operations(shape: Shape, frames: int) -> float:
    """Two for each multiplication: weights, and attention within a frame."""
    tower = shape.tower
    patches = frames * shape.patches / shape.frames_per_step
    attention = 2 * tower.layers * tower.hidden * shape.patches
    return 2 * patches * (tower.parameters + attention)


def _text_operations(shape: Shape, lengths: Sequence[int]) -> float:
    text = shape.text
    widths = {"hidden": text.hidden, "intermediate": text.intermediate}
    return 2.0 * prefill_flops(lengths, **widths, heads=text.heads, kv_heads=text.kv_heads)


def _tower_rate() -> float:
    """Operations a second that the encoder reached in the authors' profile."""
    return _tower_operations(shape_of(LLAVA_ONEVISION), 32) / (AUTHORS["vit_ms"] / 1000)


def _text_rate() -> float:
    """The same of the language model."""
    shape = shape_of(LLAVA_ONEVISION)
    return _text_operations(shape, [_RELEASE_TOKENS] * shape.text.layers) / (AUTHORS["prefill_ms"] / 1000)


def _bytes(shape: Shape, frames: int, lengths: Sequence[int]) -> float:
    """Weights, cache, and the more of what encoding and reading hold at a time."""
    text, tower = shape.text, shape.tower
    patches = math.ceil(frames / shape.frames_per_step) * shape.patches
    encoding = patches * max(2 * tower.hidden + 2 * tower.intermediate, 3 * text.hidden)
    longest = max(lengths)
    reading = longest * (4 * text.hidden + 3 * text.intermediate)
    cache = sum(lengths) * text.cache_width / text.layers
    return shape.dtype_bytes * (text.parameters + tower.parameters + cache + max(encoding, reading))
