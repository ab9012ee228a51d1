"""The method of a session on the features of one video, and what is recorded of it."""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from ...budget import count
from ...errors import TangoError
from ...machine.devices import unchanged_random_state
from ...machine.memory import memory_guard
from ...methods.build import is_adaptive, plan, with_retention
from ...models.common.family import Family
from ...models.common.layout import Clip, Grid
from ...tokens import NO_TIMESTAMPS, Pruner, Selection, VideoReport, VideoTokens
from ..call_state import CallState
from ..memo import EncodedVideo
from ..records import Alternative, selection_on_cpu
from ..session import Session
from ..splice import splice_selection
from .newlines import select_with_newlines


class VideoPruning:
    """Prunes the videos of a session's calls."""

    def __init__(self, session: Session, family: Family) -> None:
        self._session = session
        self._family = family
        self._plan = session.plan
        self._medium: Literal["video", "image"] = "video" if family is session.family else "image"

    def prune(self, call: CallState, tokens: VideoTokens, features: Tensor, clip: Clip) -> tuple[Tensor, EncodedVideo]:
        """Features ``(R, D)`` of a video with dropped tokens tagged, and what was recorded of it."""
        before, pruner, clock = call.clock.totals_ms["prune"], self._plan.before, call.clock
        assert pruner is not None
        work = f"pruning the {tokens.count} tokens of a video"
        with clock.stage("prune"), memory_guard(features.device, work, "give fewer frames, or free memory"):
            selection = self._select(pruner, tokens, clip.grid)
            tagged = splice_selection(features, selection, self._family, clip.grid)
        report = VideoReport(
            tokens_before=tokens.count,
            tokens_after=self._forwarded_count(clip, selection),
            retention=self._plan.retention,
            method=self._plan.name,
            segments=selection.segments,
            timings_ms={"prune": clock.totals_ms["prune"] - before},
            notes=tuple(dict.fromkeys((*self._plan.notes, *clip.notes, *self._fallbacks(tokens), *selection.notes))),
            newlines_before=self._family.layout.feature_count(clip.grid) - clip.grid.tokens,
            newlines_after=self._family.layout.newlines(selection, clip.grid),
            tokens_cap=self._cap(pruner, selection, clip.grid) if is_adaptive(pruner) else None,
            encoded_frames=clip.encoded,
            medium=self._medium,
        )
        with clock.paused():
            others = tuple(self._alternative(each, tokens, clip.grid) for each in self._session.records.retentions)
        return tagged, self.record(call, EncodedVideo(clip, report, selection, tokens.saliency, others))

    def _select(self, pruner: Pruner, tokens: VideoTokens, grid: Grid) -> Selection:
        if self._session.newlines == "counted":
            return select_with_newlines(pruner, tokens, self._family, grid)
        return pruner(tokens)

    def _alternative(self, retention: float, tokens: VideoTokens, grid: Grid) -> Alternative:
        """What the method keeps at another retention."""
        layers: Any = self._family.decoder.layers
        device, work = tokens.features.device, f"pruning a video to {retention}"
        try:
            pruner = plan(with_retention(self._session.pruner, retention), len(layers)).before
            # Neither the next video nor the sampling of the answer may depend on what a method draws here.
            with unchanged_random_state(device), memory_guard(device, work, "free memory"):
                selection = _everything(grid) if pruner is None else self._select(pruner, tokens, grid)
        except TangoError as error:
            return Alternative(retention, None, str(error))
        return Alternative(retention, selection_on_cpu(selection, with_features=False))

    def _cap(self, pruner: Pruner, selection: Selection, grid: Grid) -> int:
        """The most tokens that could be kept of a video; see `VideoReport.tokens_cap`."""
        if self._session.newlines == "counted":
            layout = self._family.layout
            return count(pruner.retention, layout.feature_count(grid)) - layout.newlines(selection, grid)
        return count(pruner.retention, grid.tokens)

    def keep_all(self, call: CallState, clip: Clip) -> EncodedVideo:
        """What was recorded of a video that keeps all of its tokens."""
        grid = clip.grid
        selection = _everything(grid)
        newlines = self._family.layout.feature_count(grid) - grid.tokens
        report = VideoReport(
            tokens_before=grid.tokens,
            tokens_after=self._forwarded_count(clip, selection),
            retention=self._plan.retention_for(grid.tokens),
            method=self._plan.name,
            segments=(grid.frames,),
            timings_ms={"prune": 0.0},
            notes=(*self._plan.notes, *clip.notes),
            newlines_before=newlines,
            newlines_after=newlines,
            encoded_frames=clip.encoded,
            medium=self._medium,
        )
        return self.record(call, EncodedVideo(clip, report, selection, None))

    def record(self, call: CallState, video: EncodedVideo) -> EncodedVideo:
        records = self._session.records
        for note in video.report.notes if self._plan.before is not None else ():
            records.note(note)
        call.has_dropped |= video.has_dropped
        call.records.append(records.add(video.report, video.selection, video.saliency, video.alternatives))
        return video

    def _fallbacks(self, tokens: VideoTokens) -> Iterator[str]:
        session, family = self._session, self._family
        if "timestamps" in session.needs and tokens.timestamps is None:
            yield NO_TIMESTAMPS
        if tokens.sink_tokens is None and getattr(self._plan.before, "sink_tokens", ()) is None:
            yield f"no sink positions are known for a grid of {tokens.height} x {tokens.width}: none are masked"
        signal = getattr(session.pruner, "signal", None)
        if "saliency" in session.needs and family.saliency is None and signal not in (None, session.saliency):
            yield f"the family {family.name} does not provide the saliency {signal!r}: {session.saliency!r} is used"

    def _forwarded_count(self, clip: Clip, selection: Selection) -> int:
        """How many of the kept tokens stock code forwards to the language model."""
        if clip.forwarded_mask is None:
            return selection.indices.numel()
        on_grid = clip.forwarded_mask[self._family.layout.grid_indices(clip.grid)]
        return int(on_grid[selection.indices.to(on_grid.device)].sum())


def _everything(grid: Grid) -> Selection:
    slots = torch.arange(grid.tokens)
    return Selection(slots, torch.empty(grid.tokens, 0), slots.view(*grid), (grid.frames,))
