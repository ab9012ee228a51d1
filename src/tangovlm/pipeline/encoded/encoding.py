"""A decoded video, to be encoded once for several questions and methods."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any

from torch import Tensor

from ...methods.build import Method, plan
from ...models.common.chunks import check_chunk_frames
from ...models.common.transformers_compat import Arg
from ...session.attach import check_method
from ...session.lengths.context import check_lengths
from ...session.memo import UnprunedFeatures
from ...session.placeholders import encoder_clips
from ...session.records import Recording, VideoRecord
from ...session.session import Session
from ...tokens import VideoReport
from ...tower.changed import Changed, resolve
from ...video import Frames, FrameSampling
from ...video.input import VideoSource
from ..answer import Answer, build_answer
from ..embedded import embedded_note
from ..frame_source import Progress, Source, decoded_source
from ..generation import check_source, decode_for, no_progress, prompt_inputs
from ..loaded import LoadedModel
from .model_state import ModelState
from .prefix import Prefix


@dataclass(eq=False)
class Encoding:
    """What the methods on one video share.

    Parameters
    ----------
    options: of `attach_family`.
    note: of `embedded_note`.
    features: of the vision encoder, with its signals.
    media: arguments of `generate` without those of the text; the same tensors in all calls, see `Memo`.
    state: of the model whose features are stored.
    checked: those of the text, for questions that were checked.
    encode_ms: of the last run of the vision encoder.
    """

    llm: LoadedModel
    source: Source
    options: Mapping[str, Any]
    note: str | None
    features: UnprunedFeatures = field(default_factory=UnprunedFeatures)
    media: Mapping[str, Tensor] | None = None
    state: ModelState | None = None
    checked: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    encode_ms: float = 0.0

    def refresh(self) -> None:
        """Drop the features of a model that was changed since."""
        state = ModelState.of(self.llm.model)
        if self.state not in (None, state):
            self.features, self.media, self.checked = UnprunedFeatures(), None, {}
        self.state = state

    def inputs(self, question: str, history: Sequence[tuple[str, str]] = ()) -> dict[str, Tensor]:
        """Arguments of `generate` for a question."""
        if not history and self.media is not None and question in self.checked:
            return self.checked[question] | dict(self.media)
        source = self.source
        inputs = prompt_inputs(self.llm, source.pixels, question, source.timestamps_s, source.duration_s, history)
        if self.media is None:
            words = self.words(inputs)
            self.media = {name: value for name, value in inputs.items() if name not in words}
        return inputs | dict(self.media)

    def check(self, method: Method, questions: Sequence[str]) -> None:
        """Check that prompts fit the model's context, before the video is encoded.

        Raises
        ------
        InputError: one does not; see `check_lengths`.
        """
        check_method(method)
        family = self.llm.family
        layers: Any = family.decoder.layers
        planned, newlines = plan(method, len(layers)), self.options["newlines"]
        for question in questions:
            inputs = self.inputs(question)
            self.checked[question] = self.words(inputs)
            clips = encoder_clips(family, inputs, self.source.timestamps_s)
            check_lengths(family, planned, newlines, inputs[Arg.IDS], inputs[Arg.MASK], clips)

    def words(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those arguments that have one entry for each token of the prompt."""
        names = {Arg.IDS, Arg.MASK, *self.llm.family.prompt.token_types(inputs[Arg.IDS])}
        return {name: value for name, value in inputs.items() if name in names}

    def timings(self, measured: Mapping[str, float]) -> dict[str, float]:
        """Measured times with that of the run of the encoder, if a call used its features."""
        self.encode_ms = measured["encode"] or self.encode_ms
        return dict(measured) | {"encode": self.encode_ms}


def prepare(
    llm: LoadedModel,
    video: VideoSource | Frames,
    *,
    frames: FrameSampling | None = None,
    progress: Progress | None = None,
    record: bool | Recording = False,
    positions: str | None = None,
    chunk_frames: int | None = None,
    max_frame_pixels: int | None = None,
    newlines: str = "kept",
    encode: str | Changed = "all",
) -> Encoding:
    """Decode a video; see `VideoLLM.encode` for the arguments."""
    check_chunk_frames(chunk_frames)
    resolve(encode)
    sampling = FrameSampling.of(frames)
    check_source(video, sampling)
    llm = llm.limited(max_frame_pixels)
    report = progress or no_progress
    note = embedded_note(llm, video)
    start = perf_counter()
    sampling = sampling.or_frames(llm.default_frames)
    clip = video if isinstance(video, Frames) else decode_for(llm, video, sampling, report)
    decode_ms = 1000 * (perf_counter() - start)
    source = decoded_source(clip, decode_ms, llm.family, llm.config, resized=not isinstance(video, Frames))
    options: dict[str, Any] = {"record": record, "positions": positions, "chunk_frames": chunk_frames}
    options |= {"newlines": newlines, "encode": encode}
    return Encoding(llm, source, options, note)


@dataclass(frozen=True, eq=False)
class Prefilled:
    """The beginning of all prompts about the video, and what happened to the video.

    Parameters
    ----------
    timings_ms: of encoding, pruning and reading it.
    """

    prefix: Prefix
    video: VideoReport
    notes: tuple[str, ...]
    timings_ms: Mapping[str, float]
    record: VideoRecord | None


def answer_in_batch(text: str, session: Session, encoding: Encoding, prefilled: Prefilled | None, batch: int) -> Answer:
    """The answer to one of the prompts of a batch.

    Parameters
    ----------
    prefilled: what the prompts began with; None for a prompt that was read whole.
    batch: number of prompts, which share the time of the call equally.
    """
    report = session.report
    build = partial(build_answer, text, encoding.llm, encoding.source, note=encoding.note)
    measured = {stage: ms / batch for stage, ms in report.timings_ms.items()}
    if prefilled is None:
        record = session.videos[0] if session.videos else None
        answer = build(report.videos[0], report.notes, encoding.timings(measured), record)
        answer.shared_ms = {stage: answer.timings_ms[stage] for stage in ("decode", "encode")}
        return answer
    own = {stage: measured[stage] for stage in ("prefill", "decode_tokens")}
    before = {stage: prefilled.timings_ms[stage] for stage in ("encode", "prune", "prefill")}
    timings = before | own | {"prefill": before["prefill"] + own["prefill"]}
    answer = build(prefilled.video, prefilled.notes, timings, prefilled.record)
    answer.shared_ms = {stage: answer.timings_ms[stage] - own.get(stage, 0.0) for stage in ("decode", *before)}
    return answer
