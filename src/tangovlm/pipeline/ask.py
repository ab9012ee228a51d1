"""Answer a question about a video file.

decode (video/) -> pixels and prompt (models/) -> attach a method (session/) -> the model's own generate -> `Answer`
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from ..errors import InputError
from ..inputs.pixels import check_frames
from ..inputs.prompting import check_question
from ..methods import build
from ..methods.build import Method, plan
from ..models.common.chunks import check_chunk_frames
from ..models.common.transformers_compat import Arg, encodes_first
from ..session.attach import attach_family, check_method
from ..session.records import VideoRecord
from ..session.session import Session
from ..video import Frames, decode
from ..video.prefetch import FramesChangedError
from .frame_source import FRAMES_AHEAD, Progress, Source, decoded_source, streamed_source
from .load import VideoLLM, load

BUILTIN_NOTE = (
    "the embedded model understands only its synthetic world (moving shapes, digits, words): for real videos name a "
    "real model, e.g. --model llava-hf/llava-onevision-qwen2-7b-ov-hf"
)


class Answer(str):
    """The text of an answer, with counts, times and notes.

    Attributes
    ----------
    tokens_before, tokens_after: visual tokens of the video, without newlines.
    newlines_before, newlines_after: newlines that the model inserts between or after them, see `tangovlm.attach`.
    tokens_cap: the most tokens that could be kept, if the content decided how many, see `VideoReport`; else None.
    retention, method, segments: see `tangovlm.Selection` and the method's fields.
    tokens_per_layer: visual tokens in each layer of the language model; empty if nothing was pruned inside it.
    first_pass_groups, first_pass_layers: what a pass before the prefill read, see `tangovlm.tokens.VideoReport`.
    timings_ms: decode (of the video; with `overlap`, the time spent waiting for frames), encode, prune, prefill,
        decode_tokens (of the answer).
    notes: fallbacks, and other facts that the user should know.
    model: name of the model.
    frames: the decoded frames.
    video: the record of `attach`; None unless recording was requested.
    """

    tokens_before: int
    tokens_after: int
    newlines_before: int = 0
    newlines_after: int = 0
    tokens_cap: int | None = None
    retention: float
    method: str
    segments: tuple[int, ...]
    tokens_per_layer: tuple[int, ...] = ()
    first_pass_groups: tuple[int, ...] = ()
    first_pass_layers: int = 0
    timings_ms: dict[str, float]
    notes: tuple[str, ...]
    model: str
    frames: Frames
    video: VideoRecord | None

    def as_dict(self) -> dict[str, Any]:
        """The answer as the CLI prints it in JSON."""
        return {
            "answer": str(self),
            "tokens_before": self.tokens_before,
            "tokens_after": self.tokens_after,
            "newlines_before": self.newlines_before,
            "newlines_after": self.newlines_after,
            "tokens_cap": self.tokens_cap,
            "retention": self.retention,
            "method": self.method,
            "segments": list(self.segments),
            "tokens_per_layer": list(self.tokens_per_layer),
            "first_pass_groups": list(self.first_pass_groups),
            "first_pass_layers": self.first_pass_layers,
            "timings_ms": {stage: round(ms, 3) for stage, ms in self.timings_ms.items()},
            "model": self.model,
            "frames": self.frames.pixels.shape[0],
            "notes": list(self.notes),
        }


def ask(
    video: str | Path | Frames,
    question: str,
    *,
    model: str | Path | VideoLLM | None = None,
    method: str | Method = "tango",
    retention: float = 0.1,
    frames: int | None = None,
    max_new_tokens: int = 64,
    progress: Progress | None = None,
    record: bool = False,
    positions: str | None = None,
    chunk_frames: int | None = None,
    overlap: bool | None = None,
    max_frame_pixels: int | None = None,
    newlines: str = "kept",
) -> Answer:
    """Answer a question about a video, by greedy search. Calls of several threads with one model run one by one.

    Parameters
    ----------
    video: a local file, or decoded frames.
    model: None for the embedded model, a directory, a hub id, or the result of `load`.
    method: a registered name, two of them such as "tango+fastv", or a method object, whose own retention is used.
    retention: of a method given by name; 1.0 is the unpruned model.
    frames: number of frames to decode; None for the model's default.
    max_new_tokens: the largest number of tokens of the answer.
    progress: called with a stage ("decode", "encode", "generate"), the number of steps done, and their total.
    record: keep what pictures need in `Answer.video`.
    positions, chunk_frames, newlines: see `tangovlm.attach`; with `overlap`, `chunk_frames` is 8 by default.
    overlap: encode the first frames of a file while later ones are decoded, `chunk_frames` at a time. None: on CUDA
        only. Ignored if nothing is pruned before the language model.
    max_frame_pixels: see `VideoLLM.limited`; by default frames are as large as the checkpoint specifies.

    Raises
    ------
    TangoError: see `load`, `tangovlm.method`, `tangovlm.video.decode`; InputError for an empty question, or NaN in
        the output of the model.

    Examples
    --------
    >>> import torch
    >>> pixels = torch.zeros(8, 3, 64, 64, dtype=torch.uint8)
    >>> clip = Frames(pixels, torch.arange(8, dtype=torch.float64), fps=1.0, duration_s=8.0)
    >>> ask(clip, "What happens?", max_new_tokens=1).tokens_after
    51
    """
    check_question(question)
    check_chunk_frames(chunk_frames)
    if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int) or max_new_tokens < 1:
        raise InputError(f"max_new_tokens is {max_new_tokens!r}: give a whole number of at least 1")
    if isinstance(video, Frames):
        check_frames(video.pixels)
    elif not isinstance(video, (str, Path)):
        raise InputError(f"the video is {type(video).__name__}: give a path, or Frames from tangovlm.video.decode")
    pruner = build.method(method, retention=retention) if isinstance(method, str) else method
    llm = (model if isinstance(model, VideoLLM) else load(model)).limited(max_frame_pixels)
    report = progress or (lambda _stage, _done, _total: None)
    call = _Call(llm, question, pruner, max_new_tokens, report, record, positions, newlines)
    count = llm.default_frames if frames is None else frames
    if overlap is None:
        overlap = llm.family.device.type == "cuda"
    if overlap and llm.family.prompt.streams and not isinstance(video, Frames) and _prunes_before(llm, pruner):
        try:
            with streamed_source(video, count, llm.family, llm.config, report) as source:
                return call(source, chunk_frames or FRAMES_AHEAD)
        except FramesChangedError:
            # The file is damaged: decode all of it first.
            pass
    start = perf_counter()
    clip = video if isinstance(video, Frames) else _decode(video, count, llm, report)
    decode_ms = 1000 * (perf_counter() - start)
    report("encode", 0, 1)
    prepared = decoded_source(clip, decode_ms, llm.family, llm.config, resized=not isinstance(video, Frames))
    return call(prepared, chunk_frames)


def _prunes_before(llm: VideoLLM, pruner: Method) -> bool:
    """Whether a method drops tokens before the language model; raises the errors of `attach`."""
    check_method(pruner)
    layers: Any = llm.family.decoder.layers
    return plan(pruner, len(layers)).before is not None


@dataclass(frozen=True, eq=False)
class _Call:
    """The part of `ask` that does not depend on how the frames are decoded."""

    llm: VideoLLM
    question: str
    pruner: Method
    max_new_tokens: int
    report: Progress
    record: bool
    positions: str | None
    newlines: str

    def __call__(self, source: Source, chunk_frames: int | None) -> Answer:
        llm = self.llm
        inputs = _inputs(llm, source.pixels, self.question, source.timestamps_s, source.duration_s)
        streamer = _Progress(self.report, self.max_new_tokens, encodes_first(llm.model))
        options: dict[str, Any] = {
            "positions": self.positions,
            "chunk_frames": chunk_frames,
            "newlines": self.newlines,
        }
        attached = attach_family(
            llm.family, self.pruner, timestamps=source.timestamps_s, record=self.record, in_turn=True, **options
        )
        with attached as session:
            output = llm.model.generate(
                **inputs,
                max_new_tokens=self.max_new_tokens,
                streamer=streamer,
                logits_processor=[refuse_nan],
                **GREEDY,
            )
        text = llm.tokenizer.decode(output[0, inputs[Arg.IDS].shape[1] :], skip_special_tokens=True).strip()
        return _answer(text, llm, source, session)


# With a checkpoint's sampling parameters, greedy search issues warnings.
GREEDY: dict[str, Any] = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}


def refuse_nan(_ids: Tensor, scores: Tensor) -> Tensor:
    """A logits processor that raises `InputError` for NaN, of which greedy search would choose a token."""
    if bool(scores.isnan().any()):
        raise InputError("the model's output has NaN values: check its weights and its dtype")
    return scores


class _Progress(BaseStreamer):  # type: ignore[misc] # transformers is not followed
    """Reports the tokens of `generate` as progress; the first that it gets is the prompt.

    Parameters
    ----------
    encodes_first: whether the video is encoded before the streamer gets the prompt, else before the first token.
    """

    def __init__(self, report: Progress, total: int, encodes_first: bool) -> None:
        self._report = report
        self._total = total
        self._encoded_at = 1 if encodes_first else 2
        self._calls = 0
        self._done = 0

    def put(self, value: Tensor) -> None:
        self._calls += 1
        if self._calls == self._encoded_at:
            self._report("encode", 1, 1)
            self._report("generate", 0, self._total)
        if self._calls > 1:
            self._done += value.numel()
            self._report("generate", self._done, self._total)

    def end(self) -> None:
        self._report("generate", self._total, self._total)


def _decode(path: str | Path, frames: int, llm: VideoLLM, report: Progress) -> Frames:
    fit = partial(llm.family.prompt.frame_size, llm.config)
    return decode(path, frames, fit=fit, progress=lambda done, total: report("decode", done, total))


def model_inputs(llm: VideoLLM, clip: Frames, question: str) -> dict[str, Tensor]:
    """Arguments of the model's `generate` for one question about one clip, on the model's device."""
    pixels = llm.family.prompt.pixels(clip.pixels.to(llm.family.device), llm.config)
    return _inputs(llm, pixels, question, clip.timestamps_s, clip.duration_s)


def _inputs(
    llm: VideoLLM, pixels: Tensor, question: str, seconds: Tensor, duration_s: float | None
) -> dict[str, Tensor]:
    inputs = llm.family.prompt.inputs(llm.tokenizer, llm.template, pixels, question, seconds, duration_s)
    return {name: tensor.to(llm.family.device) for name, tensor in inputs.items()}


def _answer(text: str, llm: VideoLLM, source: Source, session: Session) -> Answer:
    report = session.report
    (video,) = report.videos
    answer = Answer(text)
    answer.tokens_before, answer.tokens_after = video.tokens_before, video.tokens_after
    answer.newlines_before, answer.newlines_after = video.newlines_before, video.newlines_after
    answer.tokens_cap = video.tokens_cap
    answer.retention, answer.method, answer.segments = video.retention, video.method, video.segments
    answer.tokens_per_layer = video.tokens_per_layer
    answer.first_pass_groups, answer.first_pass_layers = video.first_pass_groups, video.first_pass_layers
    answer.timings_ms = {"decode": source.decode_ms(), **report.timings_ms}
    answer.timings_ms["encode"] += source.prepare_ms()
    clip = source.frames()
    builtin_note = (BUILTIN_NOTE,) if llm.builtin else ()
    answer.notes = (*clip.notes, *report.notes, *llm.family.prompt.notes(llm.config), *builtin_note)
    answer.model, answer.frames = llm.name, clip
    answer.video = session.videos[0] if session.videos else None
    return answer
