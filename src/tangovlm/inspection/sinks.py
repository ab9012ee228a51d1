"""Measures which grid positions are attention sinks. Only the vision encoder runs, not the language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from tangovlm.errors import InputError
from tangovlm.methods.common.sink_list import FORMAT, VERSION
from tangovlm.models.common.family import Family
from tangovlm.models.common.sinks import SINK_THRESHOLD, SinkRanks
from tangovlm.pipeline.frame_source import Progress
from tangovlm.pipeline.generation import model_inputs
from tangovlm.pipeline.load import VideoLLM
from tangovlm.video import FrameSampling, decode

from .recording import TokenRecorder, record_tokens

FEW_CLIPS = 8
"""With fewer clips a note says that content in the same place of all clips looks like a sink."""

# Any question: the encoder does not depend on it.
_QUESTION = "What happens?"
_SIGNAL = "p-attn"
"""The saliency that is ranked if the model was loaded with none, and provides it."""
_DIGITS = 6


@dataclass(frozen=True, eq=False)
class MeasuredSinks:
    """The result of `measure`.

    Parameters
    ----------
    ranks: of all frames of all clips.
    model, family: names of the model and its family.
    saliency: the kind of saliency that was ranked.
    clips: number of clips.
    notes: for the user.
    """

    ranks: SinkRanks
    model: str
    family: str
    saliency: str
    clips: int
    notes: tuple[str, ...]

    def document(self, threshold: float = SINK_THRESHOLD) -> dict[str, Any]:
        """The sink list for `Tango(sink_tokens=...)`, also as a JSON file; sinks by mean minus SD, descending.

        Raises
        ------
        InputError: see `models.common.sinks.check_threshold`.
        """
        positions = list(self.ranks.sinks(threshold))
        mean, sd = self.ranks.mean.tolist(), self.ranks.sd.tolist()
        return {
            "format": FORMAT,
            "version": VERSION,
            "model": self.model,
            "family": self.family,
            "saliency": self.saliency,
            "grid": list(self.ranks.grid),
            "threshold": threshold,
            "clips": self.clips,
            "frames": self.ranks.frames,
            "positions": positions,
            "mean_rank": [round(mean[place], _DIGITS) for place in positions],
            "sd_rank": [round(sd[place], _DIGITS) for place in positions],
        }


def measure(
    llm: VideoLLM,
    clips: Sequence[str | Path],
    *,
    frames: int | FrameSampling | None = None,
    chunk_frames: int | None = None,
    progress: Progress | None = None,
) -> MeasuredSinks:
    """Rank the saliency of every frame of some clips.

    Parameters
    ----------
    llm: a loaded model. The saliency is the one it was loaded with, else p-attn, else the first one of its family.
    clips: local files; with the same frame size if the model's grid depends on it.
    frames: number of frames per clip, None for the model's default; or a `FrameSampling`.
    chunk_frames: see `tangovlm.attach`.
    progress: called with a stage ("decode", "clips"), the finished part and the total.

    Raises
    ------
    InputError: no clips, or clips whose grids differ.
    ModelError: the model does not provide the saliency, or its weights are missing.
    VideoError: a clip that cannot be decoded.
    """
    if not clips:
        raise InputError("no clips are given: name some dozens of different ones")
    report = progress or (lambda _stage, _done, _total: None)
    ranks, notes = SinkRanks(), []
    report("clips", 0, len(clips))
    for done, path in enumerate(clips, 1):
        clip = decode(
            path,
            FrameSampling.of(frames).or_frames(llm.default_frames),
            fit=partial(llm.family.prompt.frame_size, llm.config),
            progress=partial(report, "decode"),
        )
        notes += [f"{path}: {note}" for note in clip.notes]
        inputs = model_inputs(llm, clip, _QUESTION)
        try:
            for saliency in record_saliency(llm.family, inputs, seconds=clip.prompt_times_s, chunk_frames=chunk_frames):
                ranks.add(saliency)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        report("clips", done, len(clips))
    if len(clips) < FEW_CLIPS:
        notes.append(
            f"with fewer than {FEW_CLIPS} clips (here {len(clips)}), content in the same place of all clips looks like "
            "a sink: give more, and different ones"
        )
    kind = llm.family.signals.resolve_saliency(_SIGNAL)
    return MeasuredSinks(ranks, llm.name, llm.family.name, kind, len(clips), tuple(notes))


def record_saliency(
    family: Family, inputs: Mapping[str, Any], *, seconds: Tensor | None = None, chunk_frames: int | None = None
) -> list[Tensor]:
    """The saliency of each video of a call, ``(T, H, W)`` float32 on the CPU; stops before the language model.

    Parameters
    ----------
    inputs: arguments of the model's `generate`.
    seconds, chunk_frames: `timestamps` and `chunk_frames` of `tangovlm.attach`.

    Raises
    ------
    ModelError, InputError: see `tangovlm.attach`.
    """
    recorder = TokenRecorder(_SIGNAL, frozenset({"saliency"}))
    videos = record_tokens(family, inputs, recorder, seconds=seconds, chunk_frames=chunk_frames)
    return [tokens.saliency.float().cpu() for tokens in videos if tokens.saliency is not None]
