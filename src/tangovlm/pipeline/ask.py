"""Answer a question about a video file.

decode (video/) -> pixels and prompt (models/) -> attach a method (session/) -> the model's own generate -> `Answer`
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, overload

import torch

from ..errors import InputError
from ..inputs.prompting import check_question
from ..methods.build import Method, plan
from ..models.common.chunks import check_chunk_frames
from ..models.common.transformers_compat import Arg, encodes_first
from ..session.attach import attach_family, check_method
from ..session.records import Recording
from ..tower.changed import Changed, resolve
from ..video import Frames, FrameSampling
from ..video.input import VideoSource
from ..video.input.spool import reads_streams
from ..video.prefetch import FramesChangedError
from ..video.sample import Seek
from .answer import Answer, build_answer
from .arguments import resolve_method
from .embedded import FOREIGN_NOTE, embedded_note
from .frame_source import FRAMES_AHEAD, Progress, Source, decoded_source, streamed_source
from .generation import (
    answer_text,
    check_max_new_tokens,
    check_source,
    decode_for,
    generate,
    kept_rope_deltas,
    no_progress,
    prompt_inputs,
    streamer_of,
)
from .load import VideoLLM, resolve_model
from .streamer import TextSoFar


@overload
def ask(video: VideoSource | Frames, question: str, **options: Any) -> Answer: ...


@overload
def ask(video: VideoSource | Frames, question: list[str] | tuple[str, ...], **options: Any) -> list[Answer]: ...


@reads_streams("video")  # type: ignore[misc] # the implementation names the options
def ask(
    video: VideoSource | Frames,
    question: str | list[str] | tuple[str, ...],
    *,
    model: str | Path | VideoLLM | None = None,
    method: str | Method = "tango",
    retention: float | None = None,
    frames: int | FrameSampling | None = None,
    fps: float | None = None,
    max_frames: int | None = None,
    start_s: float | None = None,
    end_s: float | None = None,
    stream: int | None = None,
    seek: Seek | None = None,
    max_new_tokens: int = 64,
    progress: Progress | None = None,
    on_text: TextSoFar | None = None,
    record: bool | Recording = False,
    positions: str | None = None,
    chunk_frames: int | None = None,
    overlap: bool | None = None,
    max_frame_pixels: int | None = None,
    newlines: str = "kept",
    encode: str | Changed = "all",
    saliency: str | None = None,
    head_weights: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Answer | list[Answer]:
    """Answer a question about a video, by greedy search. Calls of several threads with one model run one by one.

    A list or a tuple of questions gets a list of answers, for which the video is decoded, encoded and, by most methods,
    pruned once; see `EncodedClip.ask_all`. `overlap` is ignored then.

    Parameters
    ----------
    video: a local file, a folder or a list of pictures, a binary file object, or decoded frames; see
        `tangovlm.video.decode`.
    model: None for the embedded model, a directory, a hub id, or the result of `load`.
    method: a registered name, two of them such as "tango+fastv", or a method object, whose own retention is used.
    retention: of a method given by name; 1.0 is the unpruned model. None for 0.1.
    frames: number of frames to decode, None for the model's default; or a `FrameSampling` in place of this and the
        next arguments. They are for a file; frames that are decoded already are all used.
    fps, max_frames, start_s, end_s, stream, seek: see `tangovlm.video.FrameSampling`. The model is asked about the part
        from `start_s` to `end_s` as if it were a file of its own, whose times start at 0; times in `Answer` are of the
        file.
    max_new_tokens: the largest number of tokens of the answer.
    progress: called with a stage ("decode", "encode", "generate"), the number of steps done, and their total.
    on_text: called with the text of the answer so far whenever a token changes it; the last text is the answer. For one
        question only. An exception that it raises ends the call.
    record: keep what pictures need in `Answer.video`; a `Recording` also names other retentions to prune the video at.
    positions, chunk_frames, newlines, encode: see `tangovlm.attach`; with `overlap`, `chunk_frames` is 8 by default.
    overlap: encode the first frames of a file while later ones are decoded, `chunk_frames` at a time. None: on CUDA
        only. Ignored if nothing is pruned before the language model, or frames are compared first (`encode`).
    max_frame_pixels: see `VideoLLM.limited`; by default frames are as large as the checkpoint specifies.
    saliency, head_weights, device, dtype: see `load`; only for a model that is not loaded yet.

    An embedded model is asked about a file that this library did not render with a `UserWarning` and a note.

    Raises
    ------
    TangoError: see `load`, `tangovlm.method`, `tangovlm.video.decode`; InputError for an empty question, NaN in the
        output of the model, a method object with another retention, an option of `load` for a loaded model, or
        `on_text` with several questions.

    Examples
    --------
    The embedded model, about the clip that `tangovlm demo` writes:

    >>> import tangovlm
    >>> answer = tangovlm.ask("tangovlm-demo/clip.mp4", "What color is the bar?", retention=0.1)
    >>> answer, answer.tokens_before, answer.tokens_after, answer.segments
    ('red', 1024, 102, (6, 2, 8))

    Several questions about half as many frames of the first four seconds, with another method:

    >>> questions = ["What color is the bar?", "Which way does the heart move?"]
    >>> tangovlm.ask("tangovlm-demo/clip.mp4", questions, method="milonga", frames=8, end_s=4.0)
    ['red', 'up']
    """
    for each in question if isinstance(question, (list, tuple)) else [question]:
        check_question(each)
    check_chunk_frames(chunk_frames)
    changed = resolve(encode)
    check_max_new_tokens(max_new_tokens)
    sampling = FrameSampling.of(
        frames, fps=fps, max_frames=max_frames, start_s=start_s, end_s=end_s, stream=stream, seek=seek
    )
    check_source(video, sampling)
    if on_text is not None and not isinstance(question, str):
        raise InputError("on_text is given with several questions: ask them one by one")
    pruner = resolve_method(method, retention)
    options = {"saliency": saliency, "head_weights": head_weights, "device": device, "dtype": dtype}
    llm = resolve_model(model, **options).limited(max_frame_pixels)
    report = progress or no_progress
    if isinstance(question, (list, tuple)):
        given: dict[str, Any] = {"frames": sampling, "progress": report, "record": record, "positions": positions}
        encoded = llm.encode(
            video,
            method=pruner,
            questions=question,
            chunk_frames=chunk_frames,
            newlines=newlines,
            encode=encode,
            **given,
        )
        return encoded.ask_all(question, max_new_tokens=max_new_tokens, progress=report)
    if (note := embedded_note(llm, video)) == FOREIGN_NOTE:
        warnings.warn(note, UserWarning, stacklevel=3)
    call = _Call(llm, question, pruner, max_new_tokens, report, on_text, record, positions, newlines, encode, note)
    sampling = sampling.or_frames(llm.default_frames)
    if overlap is None:
        overlap = llm.family.device.type == "cuda"
    streams = overlap and changed is None and llm.family.prompt.streams
    if streams and not isinstance(video, Frames) and _prunes_before(llm, pruner):
        try:
            with streamed_source(video, sampling, llm.family, llm.config, report) as source:
                return call(source, chunk_frames or FRAMES_AHEAD)
        except FramesChangedError:
            # The file is damaged: decode all of it first.
            pass
    start = perf_counter()
    clip = video if isinstance(video, Frames) else decode_for(llm, video, sampling, report)
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
    on_text: TextSoFar | None
    record: bool | Recording
    positions: str | None
    newlines: str
    encode: str | Changed
    note: str | None

    def __call__(self, source: Source, chunk_frames: int | None) -> Answer:
        llm = self.llm
        inputs = prompt_inputs(llm, source.pixels, self.question, source.timestamps_s, source.duration_s)
        streamer = streamer_of(llm, self.report, self.max_new_tokens, encodes_first(llm.model), self.on_text)
        options: dict[str, Any] = {
            "positions": self.positions,
            "chunk_frames": chunk_frames,
            "newlines": self.newlines,
            "encode": self.encode,
        }
        attached = attach_family(
            llm.family, self.pruner, timestamps=source.timestamps_s, record=self.record, in_turn=True, **options
        )
        with attached as session, kept_rope_deltas(llm.family):
            output = generate(llm, inputs, self.max_new_tokens, streamer)
        text = answer_text(llm, output[0, inputs[Arg.IDS].shape[1] :].tolist())
        report, record = session.report, session.videos[0] if session.videos else None
        return build_answer(text, llm, source, report.videos[0], report.notes, report.timings_ms, record, self.note)
