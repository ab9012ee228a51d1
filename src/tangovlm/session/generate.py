"""Steps 1 and 3 of `tangovlm.attach`: around `generate`, a forward, and what `generate` prepares for a forward."""

import inspect
from collections.abc import Callable, Mapping
from copy import copy
from threading import Lock
from typing import Any

from torch import Tensor, nn

from ..errors import InputError
from ..models.common.transformers_compat import Arg, Signature, value_of
from . import cache_state as seen
from . import splice
from .call_state import CallState
from .carried import carried, drop
from .encode import Encoder
from .in_llm.limits import check_generation
from .in_llm.masks import Memory
from .session import Session

BY_HAND = (
    "features that were made outside of the call are read as they are, and not pruned: give pixels to have them pruned"
)


class Generation:
    """Around the methods of the whole model."""

    def __init__(self, session: Session, encoder: Encoder) -> None:
        self._session = session
        self._family = session.family
        self._encoder = encoder
        needs = (Arg.CACHE, Arg.MASK, Arg.EMBEDS, Arg.FIRST_FORWARD, Arg.NEW_LENGTH)
        prepare = session.family.model.prepare_inputs_for_generation
        self._of_prepare = Signature(prepare, "prepare_inputs_for_generation", () if session.identity else needs)
        self._of_generate = Signature(session.family.model.generate, "generate", ())
        # Stock models keep the distance of ids in three rows from the place in the prompt on the model.
        self._deltas = Lock()

    # --- calls of the user's --------------------------------------------------------------------------------------

    def generate(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The stock `generate`, timed, which also takes `video_metadata`."""
        session = self._session
        if session.closed:
            return original(*args, **kwargs)
        if session.runner is not None:
            named = dict(zip(self._of_generate.names, args, strict=False))
            check_generation(named | kwargs, self._family.model.generation_config)
        ids = self._of_generate.get(Arg.INPUTS, args, kwargs)
        ids = value_of(kwargs, Arg.IDS) if ids is None else ids
        continues = self.continues(value_of(kwargs, Arg.CACHE))
        with session.begun(ids, continues, generates=True) as call, call.clock.stage("prefill"):
            call.told = call.told.timed(kwargs).masked(kwargs)
            self.note_visual(call, kwargs)
            return original(*args, **kwargs)

    def forward(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A forward of the whole model."""
        session = self._session
        call = session.call()
        if call is not None:
            return self._forward(call, original, args, kwargs)
        if session.closed:
            return original(*args, **kwargs)
        with self.begun(session.of_model, args, kwargs) as call:
            return self._forward(call, original, args, kwargs)

    def begun(self, signature: Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call that is a forward; see `Session.begun`."""
        # Only a prompt may ask the device for the length of a cache, not every word of a loop written by hand.
        prompt = self.is_visual(kwargs)
        continues = prompt and self.continues(signature.get(Arg.CACHE, args, kwargs))
        return self._session.begun(signature.get(Arg.IDS, args, kwargs), continues)

    def continues(self, cache: Any) -> bool:
        """Whether a cache holds earlier turns; one that was emptied forgets what it carried."""
        if cache is None:
            return False
        if int(cache.get_seq_length()):
            return True
        drop(cache)
        return False

    def _forward(
        self, call: CallState, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if not call.generates:
            call.told = call.told.timed(kwargs)
            call.first_forward = self.is_visual(kwargs)
            self.note_visual(call, kwargs)
        call.told = call.told.masked(kwargs)
        labels = self._session.of_model.get(Arg.LABELS, args, kwargs)
        if not self._session.identity and labels is not None and self.is_visual(kwargs):
            raise InputError("labels do not fit the pruned sequence: leave them out, or leave the attach context")
        timed = call.first_forward
        if timed:
            call.clock.enter("prefill")
        try:
            return original(*args, **kwargs)
        finally:
            call.first_forward = False
            if timed:
                call.clock.leave()
                call.clock.turn_into("decode_tokens")

    def is_visual(self, kwargs: Mapping[str, Any]) -> bool:
        """Whether a forward is given anything but words."""
        values = [kwargs.get(name) for name in (*self._family.visual_inputs, Arg.ENCODED, Arg.EMBEDS)]
        # Stock code hands on an empty mapping of encoder outputs where there are none.
        return any(value is not None and not (isinstance(value, dict) and not value) for value in values)

    def note_visual(self, call: CallState, kwargs: Mapping[str, Any]) -> None:
        """See that the pixels of a call will be encoded, and say what cannot be pruned."""
        call.visual |= any(kwargs.get(name) is not None for name in self._family.visual_inputs)
        if kwargs.get(Arg.ENCODED) and not self._session.identity:
            self._session.records.note(BY_HAND)

    # --- what `generate` prepares ---------------------------------------------------------------------------------

    def prepare_inputs(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The stock preparation of one forward, which is told the unpruned length of a cache."""
        session, of = self._session, self._of_prepare
        call = session.call()
        if call is None:
            return original(*args, **kwargs)
        first = bool(of.get(Arg.FIRST_FORWARD, args, kwargs))
        call.first_forward = first
        if session.identity:
            return original(*args, **kwargs)
        if not first:
            # The prompt has been read.
            session.check(call)
        cache = of.get(Arg.CACHE, args, kwargs)
        state = seen.seen(cache)
        if state is not None and first and of.get(Arg.NEW_LENGTH, args, kwargs) is not None:
            embeds = of.get(Arg.EMBEDS, args, kwargs)
            length = (of.get(Arg.IDS, args, kwargs) if embeds is None else embeds).shape[1]
            args, kwargs = of.changed(args, kwargs, {Arg.NEW_LENGTH: length - state.unpruned})
        inputs = original(*args, **kwargs)
        pruned = state is not None or (cache is not None and carried(cache, Memory) is not None)
        if pruned or self.is_visual(inputs):
            # For a static cache stock code makes the mask here, over places that pruning moves: let the text model
            # make it.
            mask = inputs.get(Arg.MASK)
            if mask is not None and not (isinstance(mask, Tensor) and mask.dim() == 2):
                inputs[Arg.MASK] = of.get(Arg.MASK, args, kwargs)
        return inputs

    def position_ids(self, original: Callable[..., Any], inputs: Any, options: dict[str, Any]) -> Any:
        """The stock position ids of several rows, which are made from the unpruned length of a cache."""
        family, call = self._family, self._session.call()
        if call is None or self._session.identity:
            return original(inputs, options)
        if family.keeps_positions and any(options.get(name) is not None for name in family.visual_inputs):
            # Stock code stumbles here over placeholders that do not fit, before anything is encoded.
            names = inspect.signature(getattr(family.encoder, family.feature_method)).parameters
            given = {name: options[name] for name in names if name in options}
            self._encoder.check_fit(call, family.clips(call.told.prompt, **given))
        state = seen.seen(value_of(options, Arg.CACHE))
        if state is None:
            return original(inputs, options)
        options = options | self._of_prepare.values({Arg.CACHE: seen.Unpruned(state.unpruned)})
        if state.following is None:
            return original(inputs, options)
        with self._deltas:
            # Stock code goes by the last call, whichever that was.
            family.encoder.rope_deltas = state.following - state.mask.sum(dim=1, keepdim=True) - state.skipped
            return original(inputs, options)

    # --- tags -----------------------------------------------------------------------------------------------------

    def hide_tags(self, call: CallState, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """In front of all hooks on the model: show them features without tags."""
        outputs = kwargs.get(Arg.ENCODED)
        if not call.dropped or not outputs:
            return None
        call.hidden = {kind: splice.tags(output.pooler_output) for kind, output in outputs.items()}
        shown = {kind: splice.cleaned(output, self._family.width) for kind, output in outputs.items()}
        return args, kwargs | {Arg.ENCODED: shown}

    def tagged_again(self, call: CallState, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Undoes `hide_tags`, behind all hooks on the model without its head."""
        hidden, call.hidden = call.hidden, None
        if not hidden:
            return kwargs
        outputs = dict(kwargs[Arg.ENCODED])
        for kind, tagged in hidden.items():
            outputs[kind] = copy(outputs[kind])
            outputs[kind].pooler_output = splice.with_tags(outputs[kind].pooler_output, tagged)
        return kwargs | {Arg.ENCODED: outputs}
