"""Step 2 of `tangovlm.attach`: the stock vision encoder, with hooks for the signals, and the method on its features."""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError, ModelError
from ...models.common.family import Family
from ...models.common.layout import Clip
from ...models.common.signals import SignalParts, Signals
from ...models.common.transformers_compat import Arg
from ...tokens import VideoTokens
from ..call_state import CallState, tap_hook
from ..lengths.context import check_lengths
from ..memo import EncodedVideo, EncoderCall, UnprunedFeatures
from ..session import Session, hooks_advice
from .changed_frames import changed_frames
from .pruning import VideoPruning

# Frames between a forward of a stock model and what it calls: decorators, hooks, wrappers of other libraries.
_STACK_DEPTH = 60


class Encoder:
    """Replaces the stock method that computes the features of videos, or of images.

    Parameters
    ----------
    session: the session.
    family: the session's, or its `of_images`.
    """

    def __init__(self, session: Session, family: Family) -> None:
        self._session = session
        self._family = family
        self._plan = session.plan
        self._pruning = VideoPruning(session, family)
        self._of_images = family is not session.family

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
        if call.is_encoding:
            return original(*args, **kwargs)
        call.encoded.add(self._family.feature_method)
        call.is_encoding = True
        try:
            return self._get_features(call, original, *args, **kwargs)
        finally:
            call.is_encoding = False

    def _get_features(self, call: CallState, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        memo, prompt = None if self._of_images else self._session.memo, call.context.prompt
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
        if self._of_images:
            # Stock code counts their placeholders.
            return
        context.check_placeholders(clips)
        if self._session.prunes_images:
            # The text model's forward checks the length, once images are pruned.
            return
        if context.input_ids is not None and not context.continues:
            mask, newlines = context.attention_mask, self._session.newlines
            check_lengths(self._family, self._plan, newlines, context.input_ids, mask, clips)

    def _reuse(self, call: CallState, stored: EncoderCall) -> Any:
        """The output of an earlier call with the same pixels."""
        clips = [video.clip for video in stored.videos]
        call.media[self._family.feature_method] = [clip.grid for clip in clips]
        self.check_prompts(call, clips)
        for video in stored.videos:
            self._pruning.record(call, replace(video, report=replace(video.report, timings_ms={"prune": 0.0})))
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
        call.media[self._family.feature_method] = [clip.grid for clip in clips]
        self.check_prompts(call, clips)
        if self._plan.inside is not None and any(clip.forwarded_mask is not None for clip in clips):
            raise InputError(
                f"{family.mask_input} removes visual tokens, but pruning inside the model needs all of them: process "
                "videos with use_token_compression=False"
            )
        clips, rows = changed_frames(None if self._of_images else session.changed, family, clips, *args, **kwargs)
        if self._plan.before is None or not clips:
            return self._encode_unpruned(call, clips, rows, shared, original, *args, **kwargs)
        as_tuple = kwargs.pop(Arg.AS_DICT, None) is False
        if shared is None:
            output, signals = self._run_with_taps(call, rows, original, *args, **kwargs)
        else:
            output, signals = self._run_shared(call, rows, shared, original, *args, **kwargs)
        self._check_signals(signals)
        features = family.layout.features(output, clips)
        tokens = self._video_tokens(call, features, clips, signals)
        pruned = [self._pruning.prune(call, *each) for each in zip(tokens, features, clips, strict=True)]
        family.layout.replace_video_features(output, clips, [tagged for tagged, _ in pruned])
        return output.to_tuple() if as_tuple else output, [video for _, video in pruned]

    def _run(
        self,
        call: CallState,
        rows: Tensor | None,
        chunk_frames: int | None,
        original: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """The output of the encoder, which runs on all frames or on those of `changed_frames`."""
        encoding = self._family.encoding
        with call.clock.stage("encode"):
            if rows is None:
                return encoding.encode(original, chunk_frames, *args, **kwargs)
            return encoding.encode_some(original, chunk_frames, rows, *args, **kwargs)

    def _run_with_taps(
        self, call: CallState, rows: Tensor | None, original: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> tuple[Any, Signals]:
        """Run the encoder, with the signals of the session's method."""
        session, family = self._session, self._family
        found: SignalParts = defaultdict(list)
        call.taps = family.signals.hooks(found, session.needs, session.saliency)
        try:
            output = self._run(call, rows, session.chunk_frames, original, *args, **{Arg.AS_DICT: True}, **kwargs)
        finally:
            call.taps = None
        signals = Signals()
        family.signals.collect(found, signals)
        return output, signals if rows is None else signals.of_rows(rows)

    def _run_shared(
        self,
        call: CallState,
        rows: Tensor | None,
        shared: UnprunedFeatures,
        original: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
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
            output = self._run(call, rows, session.chunk_frames, original, *args, **{Arg.AS_DICT: True}, **kwargs)
        if rows is not None:
            recorded = {each: found.of_rows(rows) for each, found in recorded.items()}
        shared.store(args, kwargs, output, recorded)
        return output, recorded.get(kind, Signals())

    def _encode_unpruned(
        self,
        call: CallState,
        clips: Sequence[Clip],
        rows: Tensor | None,
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
            output = self._run(call, rows, self._session.chunk_frames or frames, original, *args, **kwargs)
            if shared is not None and isinstance(output, Mapping):
                shared.store(args, kwargs, output, {})
        else:
            output, _ = stored
        return output, [self._pruning.keep_all(call, clip) for clip in clips]

    def _check_signals(self, signals: Signals) -> None:
        for name in sorted(self._session.needs & {"saliency", "frame_features", "keys"}):
            if getattr(signals, name) is None:
                raise ModelError(f"the vision encoder provided no {name}: {hooks_advice()}")

    def _video_tokens(
        self, call: CallState, features: Sequence[Tensor], clips: Sequence[Clip], signals: Signals
    ) -> Iterator[VideoTokens]:
        times = [torch.zeros(1)] * len(clips) if self._of_images else call.context.frame_times(clips)
        for each, clip, seconds in zip(features, clips, times, strict=True):
            yield self._family.video_tokens(each, clip, signals, seconds)


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
