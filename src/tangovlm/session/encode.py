"""Step 2 of `tangovlm.attach`: the stock encoder, with hooks for the signals, and a method on what it gives."""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, ModelError
from ..machine.memory import memory_guard
from ..models.common.family import Family
from ..models.common.layout import Clip, Found, Signals
from ..models.common.transformers_compat import Arg
from ..tokens import NO_TIMESTAMPS, Selection, VideoReport, VideoTokens
from . import splice
from .call_state import CallState
from .memo import Entry, Kept
from .newlines import with_newlines
from .placeholders import refusal, too_long
from .session import Session, went_around

# Frames between a forward of a host and what it calls: decorators, hooks, wrappers of other libraries.
_DEPTH = 60


class Encoder:
    """Around the stock method that makes features."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._family = session.family
        self._plan = session.plan

    def hooks(self) -> list[Any]:
        """Put hooks on the vision encoder that go to whichever call observes it."""
        session = self._session
        if not session.needs:
            return []
        taps = self._family.listen(defaultdict(list), session.needs, session.saliency)
        return [tap.put_on(session.hook(_tap(number))) for number, tap in enumerate(taps)]

    def __call__(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The stock features, with dropped tokens tagged; in a call by hand those of the model without a method."""
        call = self._session.call()
        if call is None:
            if not self._session.identity and not self._session.closed and _within_forward(self._family):
                raise ModelError(f"the model encodes a video in a forward that was not seen to begin: {went_around()}")
            return original(*args, **kwargs)
        call.encoded = True
        memo = self._session.memo
        # Which features stock code hands on, and where a cache is gone on from, are not among the arguments.
        if memo is None or call.told.prompt.forwarded_mask is not None or call.told.prompt.continues:
            return self._encode(call, original, *args, **kwargs)
        if (kept := memo.find(args, kwargs)) is not None:
            return self._again(call, kept)
        call.entries.clear()
        output = self._encode(call, original, *args, **kwargs)
        memo.keep(args, kwargs, output, tuple(call.entries), dropped=call.dropped)
        return output

    def _again(self, call: CallState, kept: Kept) -> Any:
        """What an earlier call gave for the same pixels."""
        clips = [entry.clip for entry in kept.entries]
        call.grids = [clip.grid for clip in clips]
        self.check_fit(call, clips)
        call.dropped |= kept.dropped
        for entry in kept.entries:
            self._record(call, replace(entry, report=replace(entry.report, timings_ms={"prune": 0.0})))
            self._note(entry.report)
        return kept.output

    def _record(self, call: CallState, entry: Entry) -> None:
        call.entries.append(entry)
        call.places.append(self._session.records.add(entry.report, entry.selection, entry.saliency))

    def _note(self, report: VideoReport) -> None:
        for note in report.notes if self._plan.before is not None else ():
            self._session.records.note(note)

    def _encode(self, call: CallState, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        session, family, plan = self._session, self._family, self._plan
        clips = family.clips(call.told.prompt, *args, **kwargs)
        if not clips and not session.identity and (note := family.overlooked(call.told.prompt)):
            session.records.note(note)
        call.grids = [clip.grid for clip in clips]
        self.check_fit(call, clips)
        if session.runner is not None and any(clip.forwarded_mask is not None for clip in clips):
            raise InputError(
                f"{family.mask_input} leaves out visual tokens, but pruning inside the model needs all of them: "
                "process videos with use_token_compression=False"
            )
        if plan.before is None or not clips:
            # Where nothing is pruned, dividing the call could change a bit of the stock result: only on request.
            whole = sum(grid.frames for grid in family.grids(*args, **kwargs))
            with call.clock.stage("encode"):
                output = family.encode(original, session.chunk_frames or whole, *args, **kwargs)
            for clip in clips:
                self._keep_all(call, clip)
            return output
        as_tuple = kwargs.pop(Arg.AS_DICT, None) is False
        found: Found = defaultdict(list)
        call.taps = family.listen(found, session.needs, session.saliency)
        try:
            with call.clock.stage("encode"):
                output = family.encode(original, session.chunk_frames, *args, **{Arg.AS_DICT: True}, **kwargs)
        finally:
            call.taps = None
        signals = Signals()
        family.collect(found, signals)
        self._check_signals(signals)
        features = family.features(output, clips)
        tokens = self._tokens(call, features, clips, signals)
        family.replace_video_features(
            output, clips, [self._prune(call, *each) for each in zip(tokens, features, clips, strict=True)]
        )
        return output.to_tuple() if as_tuple else output

    def check_fit(self, call: CallState, clips: Sequence[Clip]) -> None:
        """See that whole prompts have room for their videos, and the model for the prompts."""
        call.told.check_fit(clips)
        ids = call.told.input_ids
        if ids is None or not clips or call.told.continues or self._plan.before is not None:
            return
        if too_long(self._family, ids.shape[1]):
            grids = [clip.grid for clip in clips]
            # Images may have the same placeholder.
            visual = min(int((ids == self._family.placeholder).sum(dim=1).max()), sum(map(self._family.feature_count, grids)))
            # Pruning inside the model begins behind layers that see everything.
            identity = self._session.identity
            raise refusal(self._family, ids.shape[1], visual, visual, grids, 1.0 if identity else None)

    def _check_signals(self, signals: Signals) -> None:
        for name in sorted(self._session.needs & {"saliency", "frame_features", "keys"}):
            if getattr(signals, name) is None:
                raise ModelError(f"the vision encoder gave no {name}: {went_around()}")

    def _tokens(
        self, call: CallState, features: Sequence[Tensor], clips: Sequence[Clip], signals: Signals
    ) -> Iterator[VideoTokens]:
        for rows, clip, time in zip(features, clips, call.told.timestamps(clips), strict=True):
            yield self._family.video_tokens(rows, clip, signals, time)

    def _prune(self, call: CallState, tokens: VideoTokens, rows: Tensor, clip: Clip) -> Tensor:
        before, pruner, clock = call.clock.totals_ms["prune"], self._plan.before, call.clock
        assert pruner is not None
        wanted = f"pruning the {tokens.count} tokens of a video"
        with clock.stage("prune"), memory_guard(rows.device, wanted, "give fewer frames, or free memory"):
            if self._session.newlines == "counted":
                selection = with_newlines(pruner, tokens, self._family, clip.grid)
            else:
                selection = pruner(tokens)
            tagged = splice.with_selection(rows, selection, self._family, clip.grid)
        call.dropped |= selection.indices.numel() < tokens.count
        report = VideoReport(
            tokens_before=tokens.count,
            tokens_after=self._handed_on(clip, selection),
            retention=self._plan.retention,
            method=self._plan.name,
            segments=selection.segments,
            timings_ms={"prune": clock.totals_ms["prune"] - before},
            notes=tuple(dict.fromkeys((*self._plan.notes, *clip.notes, *self._fallbacks(tokens), *selection.notes))),
            newlines_before=self._family.feature_count(clip.grid) - clip.grid.tokens,
            newlines_after=self._family.newlines(selection, clip.grid),
        )
        self._note(report)
        self._record(call, Entry(clip, report, selection, tokens.saliency))
        return tagged

    def _fallbacks(self, tokens: VideoTokens) -> Iterator[str]:
        session, family = self._session, self._family
        if "timestamps" in session.needs and tokens.timestamps is None:
            yield NO_TIMESTAMPS
        if tokens.sink_tokens is None and getattr(self._plan.before, "sink_tokens", ()) is None:
            yield f"no sink positions are known for a grid of {tokens.height} x {tokens.width}: none are masked"
        wanted = getattr(session.pruner, "signal", None)
        if "saliency" in session.needs and family.saliency is None and wanted not in (None, session.saliency):
            yield f"the family {family.name} does not give the saliency {wanted!r}: {session.saliency!r} is taken"

    def _keep_all(self, call: CallState, clip: Clip) -> None:
        plan, grid = self._plan, clip.grid
        slots = torch.arange(grid.tokens)
        selection = Selection(slots, torch.empty(grid.tokens, 0), slots.view(*grid), (grid.frames,))
        left, notes = self._handed_on(clip, selection), (*plan.notes, *clip.notes)
        newlines = self._family.feature_count(grid) - grid.tokens
        report = VideoReport(
            grid.tokens,
            left,
            plan.retention,
            plan.name,
            (grid.frames,),
            {"prune": 0.0},
            notes,
            newlines_before=newlines,
            newlines_after=newlines,
        )
        self._record(call, Entry(clip, report, selection, None))

    def _handed_on(self, clip: Clip, selection: Selection) -> int:
        """How many of the tokens that were kept the language model gets."""
        if clip.forwarded_mask is None:
            return selection.indices.numel()
        on_grid = clip.forwarded_mask[self._family.grid_indices(clip.grid)]
        return int(on_grid[selection.indices.to(on_grid.device)].sum())


def _tap(number: int) -> Callable[..., None]:
    def hook(call: CallState, module: nn.Module, *arguments: Any) -> None:
        if call.taps is not None:
            call.taps[number].function(module, *arguments)

    return hook


def _within_forward(family: Family) -> bool:
    """Whether this is called from a forward of the model, compiled or not, and not by the user."""
    files = {sys.modules[type(module).__module__].__file__ for module in (family.model, family.encoder)}
    frame = sys._getframe(2)
    for _ in range(_DEPTH):
        if frame.f_code.co_filename in files and "forward" in frame.f_code.co_name:
            return True
        if frame.f_back is None:
            return False
        frame = frame.f_back
    return False
