"""The text of an answer, with what happened to the visual tokens of its video."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ..inputs.prompting import EMPTY_ANSWER
from ..session.records import VideoRecord
from ..tokens import VideoReport
from ..video import Frames
from .frame_source import Source
from .loaded import LoadedModel


class Answer(str):
    """The text of an answer, with counts, times and notes.

    Attributes
    ----------
    tokens_before, tokens_after: visual tokens of the video, without newlines.
    newlines_before, newlines_after: newlines that the model inserts between or after them, see `tangovlm.attach`.
    tokens_cap: the most tokens that could be kept, if the content decided how many, see `VideoReport`; else None.
    encoded_frames: frames of the token grid that the vision encoder ran on, if it was not all of them; else None.
    retention, method, segments: see `tangovlm.Selection` and the method's fields.
    tokens_per_layer: visual tokens in each layer of the language model; empty if nothing was pruned inside it.
    first_pass_groups, first_pass_layers: what a pass before the prefill read, see `tangovlm.tokens.VideoReport`.
    timings_ms: decode (of the video; with `overlap`, the time spent waiting for frames), encode, prune, prefill,
        decode_tokens (of the answer).
    shared_ms: the part of `timings_ms` that was spent once for several answers about the video, by stage; empty for a
        question that was asked alone. See `EncodedClip`.
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
    encoded_frames: int | None = None
    retention: float
    method: str
    segments: tuple[int, ...]
    tokens_per_layer: tuple[int, ...] = ()
    first_pass_groups: tuple[int, ...] = ()
    first_pass_layers: int = 0
    timings_ms: dict[str, float]
    shared_ms: Mapping[str, float] = MappingProxyType({})
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
            "encoded_frames": self.encoded_frames,
            "retention": self.retention,
            "method": self.method,
            "segments": list(self.segments),
            "tokens_per_layer": list(self.tokens_per_layer),
            "first_pass_groups": list(self.first_pass_groups),
            "first_pass_layers": self.first_pass_layers,
            "timings_ms": {stage: round(ms, 3) for stage, ms in self.timings_ms.items()},
            "shared_ms": {stage: round(ms, 3) for stage, ms in self.shared_ms.items()},
            "model": self.model,
            "frames": self.frames.pixels.shape[0],
            "frame_times_s": [round(seconds, 6) for seconds in self.frames.timestamps_s.tolist()],
            "excerpt_s": None if self.frames.excerpt_s is None else list(self.frames.excerpt_s),
            "notes": list(self.notes),
        }


def build_answer(
    text: str,
    llm: LoadedModel,
    source: Source,
    video: VideoReport,
    notes: tuple[str, ...],
    timings_ms: Mapping[str, float],
    record: VideoRecord | None = None,
    note: str | None = None,
) -> Answer:
    """An `Answer` from the report of its video.

    Parameters
    ----------
    notes: of the session.
    timings_ms: see `Answer`; without the stage "decode".
    note: of `embedded_note`.
    """
    answer = Answer(text)
    answer.tokens_before, answer.tokens_after = video.tokens_before, video.tokens_after
    answer.newlines_before, answer.newlines_after = video.newlines_before, video.newlines_after
    answer.tokens_cap, answer.encoded_frames = video.tokens_cap, video.encoded_frames
    answer.retention, answer.method, answer.segments = video.retention, video.method, video.segments
    answer.tokens_per_layer = video.tokens_per_layer
    answer.first_pass_groups, answer.first_pass_layers = video.first_pass_groups, video.first_pass_layers
    answer.timings_ms = {"decode": source.decode_ms(), **timings_ms}
    answer.timings_ms["encode"] += source.prepare_ms()
    clip = source.frames()
    last = (*([] if text else [EMPTY_ANSWER]), *([] if note is None else [note]))
    answer.notes = (*clip.notes, *notes, *llm.family.prompt.notes(llm.config), *last)
    answer.model, answer.frames = llm.name, clip
    answer.video = record
    return answer
