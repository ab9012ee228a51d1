"""Which grid positions are sinks, measured on clips: the vision encoder runs, the language model does not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor, nn

from tangovlm.errors import InputError
from tangovlm.methods.common.sink_list import FORMAT, VERSION
from tangovlm.methods.common.slots import keep_all
from tangovlm.models.common.family import Family
from tangovlm.models.common.sinks import SINK_THRESHOLD, SinkRanks
from tangovlm.pipeline.ask import model_inputs
from tangovlm.pipeline.frame_source import Progress
from tangovlm.pipeline.load import VideoLLM
from tangovlm.session.attach import attach_family
from tangovlm.tokens import Selection, VideoTokens
from tangovlm.video import decode

FEW_CLIPS = 8
"""Below, a note says that what lies in the same place in all clips cannot be told from a sink."""

# Any: the encoder does not see it.
_QUESTION = "What happens?"
_DIGITS = 6


@dataclass(frozen=True, eq=False)
class MeasuredSinks:
    """What `measure` found.

    Parameters
    ----------
    ranks: of all frames of all clips.
    model, family: their names.
    saliency: the kind that was ranked.
    clips: how many.
    notes: what the user should know.
    """

    ranks: SinkRanks
    model: str
    family: str
    saliency: str
    clips: int
    notes: tuple[str, ...]

    def document(self, threshold: float = SINK_THRESHOLD) -> dict[str, Any]:
        """What `Tango(sink_tokens=...)` takes, and as JSON its file; sinks by mean minus SD, highest first.

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
    frames: int | None = None,
    chunk_frames: int | None = None,
    progress: Progress | None = None,
) -> MeasuredSinks:
    """Rank the saliency of every frame of some clips.

    Parameters
    ----------
    llm: a loaded model; the saliency is the one it was loaded with, else p-attn, else the first that its family gives.
    clips: local files, of one shape where the model's grid depends on it.
    frames: of each clip; None for what the model is meant for.
    chunk_frames: see `tangovlm.attach`.
    progress: called with a stage ("decode", "clips"), what is done and how much there is.

    Raises
    ------
    InputError: no clips, or clips whose grids differ.
    ModelError: the model does not give the saliency, or its weights are missing.
    VideoError: a clip that cannot be decoded.
    """
    if not clips:
        raise InputError("no clips are given: name some dozens of unlike ones")
    report = progress or (lambda _stage, _done, _total: None)
    ranks, notes = SinkRanks(), []
    report("clips", 0, len(clips))
    for done, path in enumerate(clips, 1):
        clip = decode(
            path,
            llm.default_frames if frames is None else frames,
            fit=partial(llm.family.frame_size, llm.config),
            progress=partial(report, "decode"),
        )
        notes += [f"{path}: {note}" for note in clip.notes]
        inputs = model_inputs(llm, clip, _QUESTION)
        try:
            for saliency in observed(llm.family, inputs, seconds=clip.timestamps_s, chunk_frames=chunk_frames):
                ranks.add(saliency)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        report("clips", done, len(clips))
    if len(clips) < FEW_CLIPS:
        notes.append(
            f"of fewer than {FEW_CLIPS} clips (here {len(clips)}), what lies in the same place in all of them looks "
            "like a sink: give more, and unlike ones"
        )
    kind = llm.family.resolve_saliency(_Watch.signal)
    return MeasuredSinks(ranks, llm.name, llm.family.name, kind, len(clips), tuple(notes))


@torch.no_grad()
def observed(
    family: Family, inputs: Mapping[str, Any], *, seconds: Tensor | None = None, chunk_frames: int | None = None
) -> list[Tensor]:
    """The saliency of each video of a call, ``(T, H, W)`` float32 on the CPU; the model is stopped once it has encoded.

    Parameters
    ----------
    inputs: what the model's `generate` takes.
    seconds, chunk_frames: `timestamps` and `chunk_frames` of `tangovlm.attach`.

    Raises
    ------
    ModelError, InputError: see `tangovlm.attach`.
    """
    watch = _Watch()
    attached = attach_family(family, watch, timestamps=seconds, chunk_frames=chunk_frames)
    with attached, _stopped_before(family.decoder):
        family.model(**inputs)
    return watch.seen


@dataclass(eq=False)
class _Watch:
    """Passes for a method: takes the saliency of a video, and leaves its tokens as they are."""

    name: ClassVar[str] = "inspect sinks"
    stage: ClassVar[str] = "pre-llm"
    needs: ClassVar[frozenset[str]] = frozenset({"saliency"})
    signal: ClassVar[str] = "p-attn"
    retention: ClassVar[float] = 0.5

    seen: list[Tensor] = field(default_factory=list)

    def __call__(self, tokens: VideoTokens) -> Selection:
        if tokens.saliency is not None:
            self.seen.append(tokens.saliency.float().cpu())
        return keep_all(tokens, (tokens.frames,))


class _Encoded(Exception):  # noqa: N818 (nothing is wrong)
    """The video is encoded; what follows is not wanted."""


@contextmanager
def _stopped_before(decoder: nn.Module) -> Iterator[None]:
    """Leave the context as soon as the text model is called."""

    def stop(_module: nn.Module, _args: Any) -> NoReturn:
        raise _Encoded

    hook = decoder.register_forward_pre_hook(stop, prepend=True)
    try:
        yield
    except _Encoded:
        pass
    finally:
        hook.remove()
