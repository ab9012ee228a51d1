"""Step 2 of `tangovlm.attach`: the stock vision encoder, with hooks for the signals, and the method on its features."""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..budget import count
from ..errors import InputError, ModelError, TangoError
from ..machine.devices import unchanged_random_state
from ..machine.memory import memory_guard
from ..methods.build import is_adaptive, plan, with_retention
from ..models.common.family import Family
from ..models.common.layout import Clip, Grid
from ..models.common.signals import SignalParts, Signals
from ..models.common.transformers_compat import Arg
from ..tokens import NO_TIMESTAMPS, Pruner, Selection, VideoReport, VideoTokens
from .call_state import CallState, tap_hook
from .lengths.context import check_lengths
from .memo import EncodedVideo, EncoderCall, UnprunedFeatures
from .newlines import select_with_newlines
from .records import Alternative, selection_on_cpu
from .session import Session, hooks_advice
from .splice import splice_selection

# Frames between a forward of a stock model and what it calls: decorators, hooks, wrappers of other libraries.
_STACK_DEPTH = 60


class Encoder:
    """Replaces the stock method that computes the features of videos."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._family = session.family
        self._plan = session.plan

    def register_hooks(self) -> list[Any]:
        """Register hooks on the vision encoder, which pass signals to the call that records them; returns handles."""
        session = self._session
        if not session.needs:
            return []
        taps = self._family.signals.hooks(defaultdict(list), session.needs, session.saliency)
        return [tap.register(session.hook(tap_hook(number))) for number, tap in enumerate(taps)]

    def get_features(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The stock features with dropped tokens tagged; outside of calls of the model, the stock features."""
        call = self._session.current_call()
        if call is None:
            if not self._session.identity and not self._session.closed and _is_within_forward(self._family):
                raise ModelError(f"the model encodes a video in a forward that began without hooks: {hooks_advice()}")
            return original(*args, **kwargs)
        call.is_encoded = True
        memo, prompt = self._session.memo, call.context.prompt
        # The arguments say neither which features stock code forwards, nor that a cache holds earlier turns.
        if memo is None or prompt.forwarded_mask is not None or prompt.continues:
            return self._encode(call, None, original, *args, **kwargs)[0]
        if (stored := memo.find(args, kwargs)) is not None:
            return self._reuse(call, stored)
        output, videos = self._encode(call, memo.unpruned, original, *args, **kwargs)
        memo.store(args, kwargs, output, tuple(videos))
        return output

    def check_prompts(self, call: CallState, clips: Sequence[Clip]) -> None:
        """Check that whole prompts have a placeholder for each feature, and that they fit the model's context."""
        context = call.context
        context.check_placeholders(clips)
        if context.input_ids is not None and not context.continues:
            mask, newlines = context.attention_mask, self._session.newlines
            check_lengths(self._family, self._plan, newlines, context.input_ids, mask, clips)

    def _reuse(self, call: CallState, stored: EncoderCall) -> Any:
        """The output of an earlier call with the same pixels."""
        clips = [video.clip for video in stored.videos]
        call.grids = [clip.grid for clip in clips]
        self.check_prompts(call, clips)
        for video in stored.videos:
            self._record(call, replace(video, report=replace(video.report, timings_ms={"prune": 0.0})))
        return stored.output

    def _encode(
        self,
        call: CallState,
        shared: UnprunedFeatures | None,
        original: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Any, list[EncodedVideo]]:
        """The output of the encoder, and what was recorded of its videos."""
        session, family = self._session, self._family
        clips = family.layout.clips(call.context.prompt, *args, **kwargs)
        if not clips and not session.identity and (note := family.layout.no_video_note(call.context.prompt)):
            session.records.note(note)
        call.grids = [clip.grid for clip in clips]
        self.check_prompts(call, clips)
        if self._plan.inside is not None and any(clip.forwarded_mask is not None for clip in clips):
            raise InputError(
                f"{family.mask_input} removes visual tokens, but pruning inside the model needs all of them: process "
                "videos with use_token_compression=False"
            )
        if self._plan.before is None or not clips:
            return self._encode_unpruned(call, clips, shared, original, *args, **kwargs)
        as_tuple = kwargs.pop(Arg.AS_DICT, None) is False
        if shared is None:
            output, signals = self._run_with_taps(call, original, *args, **kwargs)
        else:
            output, signals = self._run_shared(call, shared, original, *args, **kwargs)
        self._check_signals(signals)
        features = family.layout.features(output, clips)
        tokens = self._video_tokens(call, features, clips, signals)
        pruned = [self._prune(call, *each) for each in zip(tokens, features, clips, strict=True)]
        family.layout.replace_video_features(output, clips, [tagged for tagged, _ in pruned])
        return output.to_tuple() if as_tuple else output, [video for _, video in pruned]

    def _run_with_taps(
        self, call: CallState, original: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> tuple[Any, Signals]:
        """Run the encoder, with the signals of the session's method."""
        session, family = self._session, self._family
        found: SignalParts = defaultdict(list)
        call.taps = family.signals.hooks(found, session.needs, session.saliency)
        try:
            with call.clock.stage("encode"):
                output = family.encoding.encode(original, session.chunk_frames, *args, **{Arg.AS_DICT: True}, **kwargs)
        finally:
            call.taps = None
        signals = Signals()
        family.signals.collect(found, signals)
        return output, signals

    def _run_shared(
        self, call: CallState, shared: UnprunedFeatures, original: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> tuple[Any, Signals]:
        """The stored output and signals, or those of a run that records what all methods so far have asked for."""
        session, family = self._session, self._family
        kind = session.saliency
        if (stored := shared.find(args, kwargs, kind, session.needs)) is not None:
            return stored
        recorded: dict[str, Signals] = {}
        with ExitStack() as stack:
            for each, needs in shared.wanted(kind, session.needs).items():
                recorded[each] = stack.enter_context(family.signals.observe(needs, each))
            with call.clock.stage("encode"):
                output = family.encoding.encode(original, session.chunk_frames, *args, **{Arg.AS_DICT: True}, **kwargs)
        shared.store(args, kwargs, output, recorded)
        return output, recorded.get(kind, Signals())

    def _encode_unpruned(
        self,
        call: CallState,
        clips: Sequence[Clip],
        shared: UnprunedFeatures | None,
        original: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Any, list[EncodedVideo]]:
        if kwargs.get(Arg.AS_DICT) is False:
            shared = None
        stored = None if shared is None else shared.find(args, kwargs)
        if stored is None:
            # Encoding in chunks could change a bit of the stock result: only on request.
            frames = sum(grid.frames for grid in self._family.layout.grids(*args, **kwargs))
            with call.clock.stage("encode"):
                output = self._family.encoding.encode(original, self._session.chunk_frames or frames, *args, **kwargs)
            if shared is not None and isinstance(output, Mapping):
                shared.store(args, kwargs, output, {})
        else:
            output, _ = stored
        return output, [self._record(call, self._unpruned_video(clip)) for clip in clips]

    def _check_signals(self, signals: Signals) -> None:
        for name in sorted(self._session.needs & {"saliency", "frame_features", "keys"}):
            if getattr(signals, name) is None:
                raise ModelError(f"the vision encoder provided no {name}: {hooks_advice()}")

    def _video_tokens(
        self, call: CallState, features: Sequence[Tensor], clips: Sequence[Clip], signals: Signals
    ) -> Iterator[VideoTokens]:
        for each, clip, seconds in zip(features, clips, call.context.frame_times(clips), strict=True):
            yield self._family.video_tokens(each, clip, signals, seconds)

    def _prune(self, call: CallState, tokens: VideoTokens, features: Tensor, clip: Clip) -> tuple[Tensor, EncodedVideo]:
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
        )
        with clock.paused():
            others = tuple(self._alternative(each, tokens, clip.grid) for each in self._session.records.retentions)
        return tagged, self._record(call, EncodedVideo(clip, report, selection, tokens.saliency, others))

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

    def _unpruned_video(self, clip: Clip) -> EncodedVideo:
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
        )
        return EncodedVideo(clip, report, selection, None)

    def _record(self, call: CallState, video: EncodedVideo) -> EncodedVideo:
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


def _is_within_forward(family: Family) -> bool:
    """Whether the caller was called by a forward of the model, compiled or not, and not by the user."""
    files = {sys.modules[type(module).__module__].__file__ for module in (family.model, family.encoder)}
    frame = sys._getframe(2)
    for _ in range(_STACK_DEPTH):
        if frame.f_code.co_filename in files and "forward" in frame.f_code.co_name:
            return True
        if frame.f_back is None:
            return False
        frame = frame.f_back
    return False
