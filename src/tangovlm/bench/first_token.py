"""`tangovlm bench first-token`: from the bytes of a video file to the first token, and which stage takes how long.

Every repetition runs all ways on a file, one after another, so that they meet the same load of the machine; the first
is a warm-up. Each way is one call of `tangovlm.ask` that generates one token.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch

import tangovlm
from tangovlm.kernels import variant
from tangovlm.pipeline.answer import Answer
from tangovlm.pipeline.load import VideoLLM
from tangovlm.report.provenance import machine
from tangovlm.tiny.clip import write_clip
from tangovlm.tiny.synthetic.sampling import sample_clip
from tangovlm.tiny.synthetic.world import PACES
from tangovlm.video.source import local_file

from .tables import Column, number, text
from .timing import TimedRow, dtype_name, timed

QUESTION = "What happens?"
STAGES = ("decode", "encode", "prune", "prefill")
FRAMES = 32
_MOMENTS = 64
"""Of a clip that is made; at half a second each."""
KEYS = ("clip", "way", "model", "method", "retention", "frames", "device", "threads")
"""The entries that identify a row: one with the same entries replaces another."""
COLUMNS = (
    Column("clip", text("clip")),
    Column("way", text("way")),
    Column("frames", number("frames", 0)),
    Column("encoded", number("encoded_frames", 0)),
    Column("tokens", lambda row: f"{row['tokens_before']} → {row['tokens_after']}"),
    *(Column(f"{stage} ms", number(f"{stage}_ms", 0)) for stage in STAGES),
    Column("first token ms", number("first_token_ms", 0)),
    Column("times faster", number("speedup", 2)),
    Column("on", text("device")),
)


class Way(NamedTuple):
    """How a file becomes the first token.

    Parameters
    ----------
    name: in the table.
    prunes: whether tokens are dropped.
    options: of `tangovlm.ask`.
    """

    name: str
    prunes: bool
    options: dict[str, Any]


WAYS = (
    Way("all tokens", False, {}),
    Way("pruned", True, {}),
    Way("and changed frames only", True, {"encode": "changed"}),
    Way("and keyframes", True, {"encode": "changed", "seek": "keyframe"}),
)
"""The first is what the others are compared with."""


@dataclass(frozen=True)
class FirstTokenRow(TimedRow):
    """One way on one file; times are medians in milliseconds.

    Parameters
    ----------
    clip: name of the file. way: one of `WAYS`.
    model, method: names.
    frames, encoded_frames: that were decoded, and on which the vision encoder ran.
    tokens_after: visual tokens that entered the language model.
    decode_ms, encode_ms, prune_ms, prefill_ms: of the stages, see `Answer.timings_ms`.
    first_token_ms: from the call to the first token. speedup: that of all tokens over this.
    """

    clip: str
    way: str
    model: str
    method: str
    frames: int
    encoded_frames: int
    tokens_after: int
    decode_ms: float
    encode_ms: float
    prune_ms: float
    prefill_ms: float
    first_token_ms: float
    speedup: float


def run(
    *,
    files: Sequence[Path] = (),
    model: str | None = None,
    method: str = "milonga",
    retention: float = 0.1,
    frames: int = FRAMES,
    repeats: int = 5,
    device: torch.device,
    dtype: torch.dtype | None = None,
    progress: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """Measure each file in all ways, and yield a row for each.

    Parameters
    ----------
    files: none for a still, a calm and a busy clip of the synthetic world, of 32 seconds, as H.264.
    frames: to take of each file.
    repeats: number of timed repetitions, after the warm-up.
    progress: called with a line at the start of each file.

    Raises
    ------
    TangoError: see `tangovlm.load`, `tangovlm.method` and `tangovlm.ask`.
    """
    pruner, whole = (tangovlm.method(method, retention=value) for value in (retention, 1.0))
    paths = [Path(local_file(file)) for file in files]
    llm = tangovlm.load(model, device=device, dtype=dtype)
    with ExitStack() as stack:
        if not paths:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            for pace in PACES:
                paths.append(folder / f"{pace}.mp4")
                write_clip(sample_clip(np.random.default_rng(0), _MOMENTS, pace), paths[-1])
        for file in paths:
            progress(f"{file.name}: {1 + repeats} times {frames} frames in {len(WAYS)} ways")
            yield from map(asdict, _rows(llm, file, {True: pruner, False: whole}, frames, repeats, device))


def _rows(
    llm: VideoLLM, file: Path, methods: dict[bool, Any], frames: int, repeats: int, device: torch.device
) -> Iterator[FirstTokenRow]:
    runs: list[list[tuple[float, Answer]]] = [[] for _ in WAYS]
    for repetition in range(1 + repeats):
        for way, own in zip(WAYS, runs, strict=True):
            options: dict[str, Any] = {"frames": frames, "max_new_tokens": 1, **way.options}

            def ask(options: dict[str, Any] = options, pruner: Any = methods[way.prunes]) -> Answer:
                answer: Answer = tangovlm.ask(file, QUESTION, model=llm, method=pruner, **options)
                return answer

            timing = timed(ask, device=device, repeats=1)
            if repetition:
                own.append((timing.median_ms, timing.result))
    first = median(ms for ms, _ in runs[0])
    for way, own in zip(WAYS, runs, strict=True):
        answer, total = own[-1][1], median(ms for ms, _ in own)
        count = len(answer.frames.pixels)
        stages: dict[str, Any] = {f"{stage}_ms": median(each.timings_ms[stage] for _, each in own) for stage in STAGES}
        yield FirstTokenRow(
            retention=methods[way.prunes].retention,
            dtype=dtype_name(llm.model.dtype),
            **machine(device),
            kernel=variant(device),
            tokens_before=answer.tokens_before,
            warm_up=1,
            repeats=repeats,
            clip=file.name,
            way=way.name,
            model=llm.name,
            method=methods[True].name,
            frames=count,
            encoded_frames=count if answer.encoded_frames is None else answer.encoded_frames,
            tokens_after=answer.tokens_after,
            **stages,
            first_token_ms=total,
            speedup=first / total,
        )
