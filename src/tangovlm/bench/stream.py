"""`tangovlm bench stream`: memory, time per frame and accuracy of streams of different lengths in few tokens.

A stream is, at one frame per second, a clip of the synthetic world, hours of other clips without anything that could be
taken for what is asked about, and a last clip. Questions about the first and the last clip are asked at the end; those
about the last one also of a stream of this clip alone.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import count, islice
from statistics import mean, median
from time import perf_counter
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

import tangovlm
from tangovlm.kernels import variant
from tangovlm.report.provenance import machine
from tangovlm.streaming.stream import Stream
from tangovlm.tiny.clip import decoded_frames
from tangovlm.tiny.synthetic.questions import Question, questions
from tangovlm.tiny.synthetic.sampling import sample_clip
from tangovlm.tiny.synthetic.world import Clip, Thing

from .memory import peak_memory
from .tables import Column, number, text
from .timing import TimedRow, dtype_name

MINUTES = (10, 180)
MAX_TOKENS = 1024
MAX_NEW_TOKENS = 16
Asked: TypeAlias = tuple[Clip, list[Question]]
"""A clip and questions about it."""
_FRAMES = 16
"""Of a clip."""
KEYS = ("model", "method", "retention", "max_tokens", "half_life_s", "minutes", "device", "threads")
"""The entries that identify a row: one with the same entries replaces another."""
COLUMNS = (
    Column("method", text("method")),
    Column("retention", text("retention")),
    Column("half-life s", number("half_life_s", 0)),
    Column("minutes", number("minutes", 0)),
    Column("frames", number("frames", 0)),
    Column("tokens", number("tokens_before", 0)),
    Column("held", number("tokens_after", 0)),
    Column("ms a frame", number("frame_ms", 1)),
    Column("in the last tenth", number("last_frame_ms", 1)),
    Column("peak MB", number("peak_mb", 0)),
    Column("answer ms", number("answer_ms", 0)),
    Column("questions", number("late_questions", 0)),
    Column("last clip %", number("late", 1)),
    Column("the same alone %", number("alone", 1)),
    Column("questions", number("early_questions", 0)),
    Column("first clip %", number("early", 1)),
    Column("on", text("device")),
)


@dataclass(frozen=True)
class StreamRow(TimedRow):
    """Streams of one length.

    Parameters
    ----------
    model, method: names.
    max_tokens, half_life_s: see `tangovlm.stream`.
    minutes, frames: of each stream, at one frame per second.
    tokens_before, tokens_after: visual tokens of all frames of a stream, and those held at its end.
    frame_ms: mean milliseconds to take a frame: encode, prune and reduce. last_frame_ms: of the last tenth of them.
    peak_mb: the largest peak of a stream beyond the loaded model, 10^6 bytes; `meter` as in `bench.memory.Peak`.
    answer_ms: median time of an answer at the end.
    late_questions, early_questions: about the last clips and the first ones. late, early: percent of them that are
        answered exactly; None without any. alone: of those about the last clips, when the stream has nothing else.
    """

    model: str
    method: str
    max_tokens: int
    half_life_s: float | None
    minutes: float
    frames: int
    tokens_before: int
    tokens_after: int
    frame_ms: float
    last_frame_ms: float
    peak_mb: float
    meter: str
    answer_ms: float
    late_questions: int
    late: float | None
    alone: float | None
    early_questions: int
    early: float | None


@dataclass
class _Outcome:
    """What happened in one stream."""

    frame_ms: list[float]
    answer_ms: list[float]
    late: list[bool]
    early: list[bool]
    before: int = 0
    after: int = 0


def run(
    *,
    model: str | None = None,
    method: str = "milonga",
    retention: float = 0.1,
    max_tokens: int = MAX_TOKENS,
    half_life_s: float | None = None,
    minutes: Sequence[float] = MINUTES,
    clips: int = 3,
    device: torch.device,
    progress: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """Yield a row per length.

    Parameters
    ----------
    model: an embedded model, see `tangovlm.load`.
    clips: streams of each length.
    progress: called with a line at the start of each stream and at each tenth of it.

    Raises
    ------
    TangoError: see `tangovlm.stream`.
    """
    llm = tangovlm.load(model, device=device)
    settings: dict[str, Any] = {
        "method": method, "retention": retention, "max_tokens": max_tokens, "half_life_s": half_life_s,
    }  # fmt: skip
    tangovlm.stream(llm, **settings)
    for length in minutes:
        frames, outcomes, alone, peaks = max(3 * _FRAMES, round(60 * length)), list[_Outcome](), list[bool](), []
        for seed, ends in enumerate(islice(_ends(), clips)):
            progress(f"{length:g} minutes, stream {seed + 1} of {clips}")
            watch = partial(_watch, tangovlm.stream(llm, **settings), frames, *ends, seed, progress)
            peaks.append(peak_memory(watch, device))
            outcomes.append(peaks[-1].result)
            short = tangovlm.stream(llm, **settings)
            short.add(_pixels(ends[1][0]))
            alone += _right(short, _apart(*reversed(ends)), [])
        times = [each.frame_ms for each in outcomes]
        tenth = max(4, len(times[0]) // 10)
        late = [right for each in outcomes for right in each.late]
        early = [right for each in outcomes for right in each.early]
        row = StreamRow(
            **settings,
            dtype=dtype_name(llm.model.dtype),
            **machine(device),
            kernel=variant(device),
            tokens_before=outcomes[0].before,
            warm_up=0,
            repeats=clips,
            model=llm.name,
            minutes=length,
            frames=frames,
            tokens_after=max(each.after for each in outcomes),
            frame_ms=mean(ms for each in times for ms in each),
            last_frame_ms=mean(ms for each in times for ms in each[-tenth:]),
            peak_mb=max(peak.extra_mb for peak in peaks),
            meter=peaks[0].meter,
            answer_ms=median(ms for each in outcomes for ms in each.answer_ms),
            late_questions=len(late),
            late=_percent(late),
            alone=_percent(alone),
            early_questions=len(early),
            early=_percent(early),
        )
        yield asdict(row)


def _watch(
    stream: Stream,
    frames: int,
    first: Asked,
    last: Asked,
    seed: int,
    progress: Callable[[str], None],
) -> _Outcome:
    """One stream from its first frame to the answers at its end."""
    outcome = _Outcome([], [], [], [])
    asked = _apart(first, last) + _apart(last, first)
    rng, tenth = np.random.default_rng((seed, frames)), 1
    added = _take(stream, _pixels(first[0]), outcome)
    while added < frames - _FRAMES:
        pixels = _pixels(_without(sample_clip(rng), asked))[: frames - _FRAMES - added]
        added += _take(stream, pixels, outcome)
        if 10 * added >= tenth * frames:
            progress(f"  {added} of {frames} frames, {outcome.frame_ms[-1]:.1f} ms a frame")
            tenth += 1
    _take(stream, _pixels(last[0]), outcome)
    outcome.late = _right(stream, _apart(last, first), outcome.answer_ms)
    outcome.early = _right(stream, _apart(first, last), outcome.answer_ms)
    answer = stream.ask("What happens?", max_new_tokens=1)
    outcome.before, outcome.after = answer.tokens_before, answer.tokens_after
    return outcome


def _take(stream: Stream, pixels: Tensor, outcome: _Outcome) -> int:
    """Add frames, with the time that each took."""
    start = perf_counter()
    stream.add(pixels)
    outcome.frame_ms.append(1000 * (perf_counter() - start) / len(pixels))
    return len(pixels)


def _right(stream: Stream, asked: Sequence[Question], answer_ms: list[float]) -> list[bool]:
    """Which questions are answered exactly."""
    found = []
    for question in asked:
        start = perf_counter()
        found.append(stream.ask(question.text, max_new_tokens=MAX_NEW_TOKENS) == question.answer)
        answer_ms.append(1000 * (perf_counter() - start))
    return found


# --- clips --------------------------------------------------------------------------------------------------------


def _ends() -> Iterator[tuple[Asked, Asked]]:
    """First and last clips, with questions about both that cannot be taken for ones about the other."""
    for seed in count(0, 2):
        first, last = _asked(seed), _asked(seed + 1)
        if _apart(first, last) and _apart(last, first):
            yield first, last


def _asked(seed: int) -> Asked:
    """A clip and its questions."""
    clip = sample_clip(np.random.default_rng((7, seed)))
    _, visible = decoded_frames(clip, _FRAMES)
    return clip, questions(clip, np.random.default_rng((8, seed)), visible)


def _pixels(clip: Clip) -> Tensor:
    return decoded_frames(clip, _FRAMES)[0].pixels


def _apart(own: Asked, other: Asked) -> list[Question]:
    """The questions about a clip that name nothing of the other."""
    return [question for question in own[1] if not any(_names(question, thing) for thing in other[0].things)]


def _without(clip: Clip, asked: Sequence[Question]) -> Clip:
    """A clip without the things that questions about others name."""
    things = (thing for thing in clip.things if not any(_names(question, thing) for question in asked))
    return replace(clip, things=tuple(things))


def _names(question: Question, thing: Thing) -> bool:
    """Whether the words of a question fit a thing."""
    words = ("sign",) if thing.role == "sign" else (thing.shape, thing.color)
    return any(word in question.text for word in words)


def _percent(right: Sequence[bool]) -> float | None:
    return 100 * sum(right) / len(right) if right else None
