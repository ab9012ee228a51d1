"""Steps 4 and 5 of `tangovlm.attach`: the model without its head, and its text model, which reads the kept tokens."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, ModelError
from ..machine.memory import memory_guard
from ..methods.build import is_adaptive
from ..methods.in_llm.common.first_pass import FirstPassMethod
from ..models.common.layout import TEXT
from ..models.common.transformers_compat import Arg, Signature, cache_in
from .cache_state import CacheState, cached_length, get_state, set_state
from .call_state import CallState, ForwardState
from .generate import Generation, forward_signature
from .in_llm.first_pass import FirstPass, report_changes
from .in_llm.forward_pass import ForwardPass
from .in_llm.limits import check_cache
from .in_llm.runner import Runner
from .lengths.context import is_too_long, too_long_error
from .lengths.padding import check_no_gap
from .records import Reading
from .session import Session
from .splice import SplicedInputs, find_tagged, remove_dropped, remove_tags, split_mask
from .text_model.arguments import defer_masks, spliced_arguments, with_blocks, without_other_logits


class Decoder:
    """Replaces the forwards of the modules that read a prompt.

    Attributes
    ----------
    runner: of a method between the layers of the language model; None if there is none.
    """

    def __init__(self, session: Session, generation: Generation) -> None:
        self._session = session
        self._family = session.family
        self._plan = session.plan
        self._generation = generation
        decoder: Any = session.family.decoder
        self._of_base = forward_signature(session, session.family.encoder, "the model without its head")
        self._of_text = forward_signature(session, decoder, "the text model")
        self.runner: Runner | None = None
        self._first_pass: FirstPass | None = None
        inside, cuts = session.plan.inside, session.plan.cuts
        if inside is not None:
            needs = (Arg.CACHE, Arg.MASK, Arg.ROTARY)
            layer = Signature(decoder.layers[0].forward, "a layer of the text model", needs)
            if cuts[0].layer:
                self.runner = Runner(decoder, inside, cuts, layer, self._current_pass, record=session.records.keep)
            if isinstance(inside, FirstPassMethod):
                self._first_pass = FirstPass(session.family, inside, cuts[0].layer, layer)
            if "pruning inside" not in session.family.tested:
                raise ModelError(
                    f"pruning inside the model is not tested with the family {session.family.name}: choose a method "
                    "that prunes before the language model"
                )

    # --- the model without its head -------------------------------------------------------------------------------

    def forward_base(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A forward of the model without its head, whose features may have tags."""
        with self._generation.join_call(self._of_base, args, kwargs) as call:
            if call is None:
                return original(*args, **kwargs)
            kwargs = self._generation.restore_tags(call, kwargs)
            is_visual = bool(args) or self._generation.is_visual(kwargs)
            call.forward = ForwardState(may_have_tags=is_visual)
            if self._plan.inside is not None and is_visual:
                call.forward.input_ids = self._of_base.get(Arg.IDS, args, kwargs)
                if call.forward.input_ids is None:
                    raise InputError("pruning inside the model needs input_ids, which say where the video is")
            args, kwargs = self._with_position_ids(args, kwargs)
            if self._family.prepares_masks:
                args, kwargs = defer_masks(self._family, self._of_base, call.forward, args, kwargs)
            output = original(*args, **kwargs)
            return remove_tags(output, self._family.width) if is_visual and call.has_dropped else output

    def _with_position_ids(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """With position ids of several axes for text that follows a pruned cache."""
        signature = self._of_base
        state = get_state(signature.get(Arg.CACHE, args, kwargs)) if self._family.keeps_positions else None
        if state is None or state.unpruned is None or signature.get(Arg.POSITIONS, args, kwargs) is not None:
            return args, kwargs
        new, mask = signature.get(Arg.IDS, args, kwargs), signature.get(Arg.MASK, args, kwargs)
        new = signature.get(Arg.EMBEDS, args, kwargs)[..., 0] if new is None else new
        valid = torch.ones_like(new, dtype=torch.bool)
        if isinstance(mask, Tensor) and mask.dim() == 2:
            valid = mask[:, -new.shape[1] :]
        # Stock code would count from the length of the pruned cache, with the offset of its last call.
        return signature.changed(args, kwargs, {Arg.POSITIONS: state.next_position_ids(valid)})

    # --- the text model -------------------------------------------------------------------------------------------

    def splice_inputs(self, call: CallState, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs before all other hooks on the text model: removes dropped tokens from its inputs."""
        forward, signature = call.forward, self._of_text
        forward.spliced = forward.in_llm = None
        forward.choices.clear()
        embeds = signature.get(Arg.EMBEDS, args, kwargs)
        if embeds is None:
            return None
        if forward.defers_masks:
            args, kwargs = signature.changed(args, kwargs, {Arg.MASK: forward.mask})
        # By now, the videos of the forward are encoded.
        ids, forward.input_ids = forward.input_ids, None
        videos = None if ids is None or not call.grids else self._family.layout.video_numbers(ids, call.grids)
        cache = signature.get(Arg.CACHE, args, kwargs)
        state = get_state(cache)
        if self._plan.inside is not None and videos is not None and call.is_generate:
            check_cache(cache)
        dropped: Tensor | None = None
        if self._first_pass is not None and videos is not None:
            videos, dropped = self._choose(call, self._first_pass, state, videos, args, kwargs)
        forward.spliced = self._splice(call, state, dropped, args, kwargs)
        if forward.spliced is not None:
            original = self._session.original_positions
            changed = spliced_arguments(signature, forward.spliced, original, args, kwargs)
            args, kwargs = signature.changed(args, kwargs, changed)
        if forward.blocks is not None:
            args, kwargs = with_blocks(self._family, signature, forward.blocks, forward.spliced, state, args, kwargs)
        if self.runner is not None:
            forward.in_llm = self._begin_in_llm(self.runner, forward.spliced, state, videos, args, kwargs)
        return args, kwargs

    def forward_text(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A forward of the text model, which may create the cache."""
        session = self._session
        call = session.current_call()
        if call is not None:
            return self._forward_text(call, original, args, kwargs)
        if session.closed:
            return original(*args, **kwargs)
        # The user called the text model: `splice_inputs` found no call. A cache may have a state.
        with session.begin_call(None, continues=False) as call:
            args, kwargs = self.splice_inputs(call, self._family.decoder, args, kwargs) or (args, kwargs)
            return self._forward_text(call, original, args, kwargs)

    def remove_position_ids(
        self, _call: CallState, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Runs before a layer of the text model, which uses position ids only to find the borders of packed prompts."""
        return args, kwargs | {Arg.POSITIONS: None}

    def _forward_text(
        self, call: CallState, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        output = original(*args, **kwargs)
        forward, cache = call.forward, self._of_text.get(Arg.CACHE, args, kwargs)
        state: CacheState | None = None
        readings: dict[int, list[Reading]] = {}
        if forward.spliced is not None:
            if forward.spliced.source is not None:
                call.is_spliced = True
                output = without_other_logits(self._of_text, output, args, kwargs)
            state = forward.spliced.state
        if forward.in_llm is not None and self.runner is not None:
            groups, counts = self.runner.end(forward.in_llm)
            first, unpruned = (forward.in_llm.first, None) if state is None else (state.first, state.unpruned)
            state = CacheState((first, *groups), unpruned)
            readings = {
                entry: [
                    Reading({"tokens_per_layer": tuple(layers)}, cuts=forward.in_llm.remaining_of(entry, video))
                    for video, layers in enumerate(videos)
                ]
                for entry, videos in enumerate(counts)
            }
        layers = len(self._family.decoder.layers)  # type: ignore[arg-type] # is a list of modules
        for entry, (choice, ms) in forward.choices.items():
            changes = report_changes(choice, self._plan.cuts[0].layer, layers, ms)
            readings[entry] = [Reading(changes, choice.selection)]
        self._session.records.add_readings(call.records, [readings[entry] for entry in sorted(readings)])
        cache = cache_in(output) if cache is None else cache
        if cache is not None and state is not None:
            set_state(cache, state)
        forward.spliced = forward.in_llm = None
        forward.choices.clear()
        return output

    def _choose(
        self,
        call: CallState,
        first_pass: FirstPass,
        state: CacheState | None,
        videos: Tensor,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[Tensor, Tensor | None]:
        """Run the first pass for the batch entries that need one.

        Returns
        -------
        The videos ``(B, Q)`` of the other entries, which are pruned between the layers; and which positions ``(B, Q)``
        the prefill does not read, None if it reads all.
        """
        signature = self._of_text
        embeds, ids = signature.get(Arg.EMBEDS, args, kwargs), signature.get(Arg.POSITIONS, args, kwargs)
        past = cached_length(signature.get(Arg.CACHE, args, kwargs), state)
        mask = signature.get(Arg.MASK, args, kwargs)
        has_pruned_cache = state is not None and state.unpruned is not None
        _, valid = split_mask(mask, past, embeds, state if has_pruned_cache else None)
        axis_ids = ids if self._family.keeps_positions and ids is not None and ids.dim() == 3 else None
        before = call.clock.totals_ms["prune"]
        advice = "lower frames_per_group, or free memory"
        with call.clock.stage("prune"), memory_guard(embeds.device, "choosing the tokens of a video", advice):
            choices = first_pass.choose(embeds, valid, videos, call.grids, axis_ids, past)
        if not choices:
            return videos, None
        ms = (call.clock.totals_ms["prune"] - before) / len(choices)
        videos = videos.clone()
        dropped = torch.zeros(embeds.shape[:2], dtype=torch.bool)
        for entry, choice in choices.items():
            call.forward.choices[entry] = choice, ms
            videos[entry] = TEXT
            dropped[entry, choice.dropped] = True
        return videos, dropped.to(embeds.device) if bool(dropped.any()) else None

    def _splice(
        self,
        call: CallState,
        state: CacheState | None,
        dropped: Tensor | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> SplicedInputs | None:
        """The inputs without dropped tokens; None if nothing was dropped, neither now nor from the cache.

        Parameters
        ----------
        dropped: ``(B, Q)`` bool, positions that a first pass left out; None if there are none.
        """
        signature, family = self._of_text, self._family
        embeds, cache = signature.get(Arg.EMBEDS, args, kwargs), signature.get(Arg.CACHE, args, kwargs)
        may_have_tags = call.forward.may_have_tags and self._plan.before is not None
        tagged = find_tagged(embeds) if may_have_tags else dropped
        if tagged is None and (state is None or state.unpruned is None):
            length = embeds.shape[1] + cached_length(cache, state)
            if self._session.prunes_images and may_have_tags and is_too_long(family, length):
                raise too_long_error(family, length, 0, 0, [])
            return None
        past, ids = cached_length(cache, state), signature.get(Arg.POSITIONS, args, kwargs)
        spliced = remove_dropped(
            embeds,
            signature.get(Arg.MASK, args, kwargs),
            past,
            state,
            tagged,
            original=self._session.original_positions,
            mrope=family.keeps_positions,
            axis_ids=ids if family.keeps_positions and ids is not None and ids.dim() == 3 else None,
        )
        if family.recurrent:
            check_no_gap(spliced.state.first, spliced.valid.shape[1], generated=spliced.source is None)
        length = past + spliced.valid.shape[1]
        if may_have_tags and tagged is not None and is_too_long(family, length):
            raise self._too_long_error(call, length, tagged, spliced)
        return spliced

    def _too_long_error(self, call: CallState, length: int, tagged: Tensor, spliced: SplicedInputs) -> InputError:
        assert self._plan.before is not None
        entry, kept_fraction = int(spliced.valid.sum(dim=1).argmax()), self._plan.before.retention
        dropped = int(tagged[entry].sum())
        # Each video may have lost half a token less by rounding; fewer visual tokens propose a smaller retention.
        fixed = 0.0 if is_adaptive(self._plan.before) else kept_fraction
        least = max(0.0, dropped - len(call.grids) / 2) / (1 - fixed)
        visual = call.context.count_placeholders(entry, len(tagged)) or least
        scale = self._plan.retention / kept_fraction
        return too_long_error(self._family, length, visual, visual - dropped, call.grids, scale)

    # --- a method inside the text model ---------------------------------------------------------------------------

    def _begin_in_llm(
        self,
        runner: Runner,
        spliced: SplicedInputs | None,
        state: CacheState | None,
        videos: Tensor | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> ForwardPass | None:
        signature = self._of_text
        if videos is not None and spliced is not None and spliced.source is not None:
            videos = videos.to(spliced.source.device).gather(1, spliced.source).masked_fill(~spliced.valid, -1)
        mask = signature.get(Arg.MASK, args, kwargs)
        if mask is not None and not (isinstance(mask, Tensor) and mask.dim() == 2):
            raise InputError("pruning needs the 2-D attention_mask (batch, positions), not a prepared mask")
        embeds, cache = signature.get(Arg.EMBEDS, args, kwargs), signature.get(Arg.CACHE, args, kwargs)
        return runner.begin(embeds, mask, cache, state, videos)

    def _current_pass(self) -> ForwardPass | None:
        call = self._session.current_call()
        return None if call is None else call.forward.in_llm
