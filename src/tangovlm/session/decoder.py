"""Step 4 of `tangovlm.attach`: around the model without its head, and in front of its text model."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..models.common.transformers_compat import Arg, cache_in
from . import cache_state as seen
from . import splice
from .call_state import CallState
from .generate import Generation
from .in_llm.limits import check_cache
from .placeholders import refusal, too_long
from .session import Session


class Decoder:
    """Around the modules that read a prompt."""

    def __init__(self, session: Session, generation: Generation) -> None:
        self._session = session
        self._family = session.family
        self._plan = session.plan
        self._generation = generation

    # --- the model without its head -------------------------------------------------------------------------------

    def base(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A forward of the model without its head, in which features may have tags."""
        session = self._session
        call = session.call()
        if call is not None:
            return self._base(call, original, args, kwargs)
        if session.closed:
            return original(*args, **kwargs)
        with self._generation.begun(session.of_base, args, kwargs) as call:
            self._generation.note_visual(call, kwargs)
            return self._base(call, original, args, kwargs)

    def _base(
        self, call: CallState, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        of = self._session.of_base
        kwargs = self._generation.tagged_again(call, kwargs)
        visual = bool(args) or self._generation.is_visual(kwargs)
        call.may_hold_tags = visual
        call.ids = None
        if self._session.runner is not None and visual:
            call.ids = of.get(Arg.IDS, args, kwargs)
            if call.ids is None:
                raise InputError("pruning inside the model needs input_ids, which say where the video is")
        args, kwargs = self._positioned(args, kwargs)
        output = original(*args, **kwargs)
        return splice.cleaned(output, self._family.width) if visual and call.dropped else output

    def _positioned(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """With position ids of several rows, where words go on behind a pruned cache."""
        of = self._session.of_base
        state = seen.seen(of.get(Arg.CACHE, args, kwargs)) if self._family.keeps_positions else None
        if state is None or of.get(Arg.POSITIONS, args, kwargs) is not None:
            return args, kwargs
        new, mask = of.get(Arg.IDS, args, kwargs), of.get(Arg.MASK, args, kwargs)
        new = of.get(Arg.EMBEDS, args, kwargs)[..., 0] if new is None else new
        valid = torch.ones_like(new, dtype=torch.bool)
        if isinstance(mask, Tensor) and mask.dim() == 2:
            valid = mask[:, -new.shape[1] :]
        # Stock code would count from the length of the pruned cache, and go by its last call, whichever that was.
        return of.changed(args, kwargs, {Arg.POSITIONS: state.next_positions(valid)})

    # --- the text model -------------------------------------------------------------------------------------------

    def before_text(self, call: CallState, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """In front of all hooks on the text model: take tags out of what it is handed."""
        of = self._session.of_decoder
        call.step = call.inside = None
        embeds = of.get(Arg.EMBEDS, args, kwargs)
        if embeds is None:
            return None
        # The videos have been encoded by now.
        videos = None if call.ids is None or not call.grids else self._family.videos(call.ids, call.grids)
        call.ids = None
        args, kwargs = of.changed(args, kwargs, self._spliced(call, args, kwargs))
        runner = self._session.runner
        if runner is not None:
            cache = of.get(Arg.CACHE, args, kwargs)
            if videos is not None and call.generates:
                check_cache(cache)
            if videos is not None and call.step is not None and call.step.places is not None:
                videos = videos.to(call.step.places.device).gather(1, call.step.places)
                videos = videos.masked_fill(~call.step.valid, -1)
            mask = of.get(Arg.MASK, args, kwargs)
            if mask is not None and not (isinstance(mask, Tensor) and mask.dim() == 2):
                raise InputError("pruning needs the 2-D attention_mask (batch, positions), not a prepared mask")
            call.inside = runner.begin(of.get(Arg.EMBEDS, args, kwargs), mask, cache, videos)
        return args, kwargs

    def text(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A forward of the text model, which may make the cache itself."""
        session = self._session
        call = session.call()
        if call is not None:
            return self._text(call, original, args, kwargs)
        if session.closed:
            return original(*args, **kwargs)
        # Called by hand: the hook in front of it found no call. A cache may carry what is to be known.
        with session.begun(None, continues=False) as call:
            args, kwargs = self.before_text(call, self._family.decoder, args, kwargs) or (args, kwargs)
            return self._text(call, original, args, kwargs)

    def _text(
        self, call: CallState, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        output = original(*args, **kwargs)
        cache = self._session.of_decoder.get(Arg.CACHE, args, kwargs)
        cache = cache_in(output) if cache is None else cache
        if call.step is not None:
            call.taken_out |= call.step.places is not None
            if cache is not None:
                seen.remember(cache, call.step.state)
        if call.inside is not None and self._session.runner is not None:
            self._session.records.read(call.places, self._session.runner.end(call.inside, cache))
        call.step = call.inside = None
        return output

    def before_layer(self, _call: CallState, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """In front of a layer of the text model, which needs position ids for nothing but finding packed prompts."""
        return args, kwargs | {Arg.POSITIONS: None}

    def _spliced(self, call: CallState, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Arguments of the text model that dropped tokens change."""
        of, family = self._session.of_decoder, self._family
        embeds, cache = of.get(Arg.EMBEDS, args, kwargs), of.get(Arg.CACHE, args, kwargs)
        state = seen.seen(cache)
        tagged = splice.find_tagged(embeds) if call.may_hold_tags and self._plan.before is not None else None
        if state is None and tagged is None:
            return {}
        past, rows = _length(cache, state), of.get(Arg.POSITIONS, args, kwargs)
        if not family.keeps_positions or (rows is not None and rows.dim() != 3):
            rows = None
        step = splice.advance(
            embeds,
            of.get(Arg.MASK, args, kwargs),
            past,
            state,
            tagged,
            original=self._session.original_positions,
            several=family.keeps_positions,
            rows=rows,
        )
        call.step, mask = step, step.mask
        length = past + step.valid.shape[1]
        if tagged is not None and too_long(family, length):
            raise self._too_long(call, length, tagged, step)
        if mask is None and cache is None and self._session.original_positions:
            # Without cache and mask, stock code takes gaps between position ids for the borders of packed prompts.
            mask = step.state.mask.long()
        changed: dict[str, Any] = {Arg.EMBEDS: step.embeds, Arg.MASK: mask, Arg.POSITIONS: step.position_ids}
        if step.places is not None and (deep := of.get(Arg.DEEP_FEATURES, args, kwargs)) is not None:
            visual, layers = splice.gather_layers(of.get(Arg.DEEP_PLACES, args, kwargs), deep, step)
            changed |= {Arg.DEEP_PLACES: visual, Arg.DEEP_FEATURES: layers}
        return changed

    def _too_long(self, call: CallState, length: int, tagged: Tensor, step: splice.Advance) -> InputError:
        assert self._plan.before is not None
        row, share = int(step.valid.sum(dim=1).argmax()), self._plan.before.retention
        dropped = int(tagged[row].sum())
        # Each video may have lost half a token less by rounding; fewer visual tokens propose a smaller retention.
        least = max(0.0, dropped - len(call.grids) / 2) / (1 - share)
        visual = call.told.visual_tokens(row, len(tagged)) or least
        return refusal(self._family, length, visual, visual - dropped, call.grids, self._plan.retention / share)


def _length(cache: Any, state: seen.Seen | None) -> int:
    if cache is None:
        return 0
    # The state knows the length without asking the device.
    return int(cache.get_seq_length()) if state is None else state.mask.shape[1]
