"""Steps 1 and 3 of `tangovlm.attach`: `generate`, forwards of the model, and what `generate` prepares for a forward."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from threading import Lock
from typing import Any

from torch import Tensor, nn

from ..errors import InputError
from ..models.common.transformers_compat import Arg, Signature, value_of
from .cache_state import clear_state, get_state
from .call_state import CallState
from .encoding.encoder import Encoder
from .in_llm.limits import check_generation
from .session import Session
from .splice import remove_tags, restore_tags, tag_mask

GIVEN_FEATURES = (
    "features that were computed outside of the call are used as they are, and not pruned: give pixels to have them "
    "pruned"
)
_FORWARD_NEEDS = (Arg.EMBEDS, Arg.MASK, Arg.POSITIONS, Arg.CACHE)


def forward_signature(session: Session, module: Any, title: str) -> Signature:
    """The signature of a module's forward, which must have the arguments that pruning changes."""
    return Signature(module.forward, title, () if session.identity else _FORWARD_NEEDS)


@dataclass(frozen=True)
class UnprunedLength:
    """Stands for a cache of the unpruned length, for stock code that reads only the length of a cache."""

    length: int

    def get_seq_length(self) -> int:
        """The length."""
        return self.length


class Generation:
    """Replaces the methods of the whole model."""

    def __init__(self, session: Session, encoder: Encoder) -> None:
        self._session = session
        self._family = session.family
        self._encoder = encoder
        model, needs = session.family.model, (Arg.CACHE, Arg.MASK, Arg.EMBEDS, Arg.FIRST_FORWARD, Arg.NEW_LENGTH)
        self._of_model = forward_signature(session, model, "the model")
        prepare = model.prepare_inputs_for_generation
        self._of_prepare = Signature(prepare, prepare.__name__, () if session.identity else needs, inherits=model)
        self._of_generate = Signature(model.generate, "generate", ())
        # Stock models with M-RoPE store the offset between position ids and positions in the text as an attribute.
        self._rope_deltas = Lock()

    # --- calls by the user ----------------------------------------------------------------------------------------

    def generate(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The stock `generate`, timed, which also accepts `video_metadata`."""
        session = self._session
        if session.closed:
            return original(*args, **kwargs)
        if session.plan.inside is not None:
            named = dict(zip(self._of_generate.names, args, strict=False))
            check_generation(named | kwargs, self._family.model.generation_config)
        ids = self._of_generate.get(Arg.INPUTS, args, kwargs)
        ids = value_of(kwargs, Arg.IDS) if ids is None else ids
        continues = _holds_earlier_turns(value_of(kwargs, Arg.CACHE))
        begun = session.begin_call(ids, continues, is_generate=True, mask=value_of(kwargs, Arg.MASK))
        with begun as call, call.clock.stage("prefill"):
            call.context = call.context.with_times(kwargs).with_mask(kwargs)
            self._note_visual_inputs(call, kwargs)
            return original(*args, **kwargs)

    def forward(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A forward of the whole model."""
        with self.join_call(self._of_model, args, kwargs) as call:
            if call is None:
                return original(*args, **kwargs)
            if not call.is_generate:
                call.context = call.context.with_times(kwargs)
                call.reads_prompt = self.is_visual(kwargs)
            call.context = call.context.with_mask(kwargs)
            if not self._session.identity and self.is_visual(kwargs):
                self._check_labels(args, kwargs)
            return self._timed_forward(call, original, args, kwargs)

    @contextmanager
    def join_call(
        self, signature: Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Iterator[CallState | None]:
        """The call that a forward belongs to: the one that runs, else a new one, or None after the context was left."""
        call = self._session.current_call()
        if call is not None or self._session.closed:
            yield call
            return
        # Reading the length of a cache may synchronize: once for a prompt, but not for each token of a user's loop.
        continues = self.is_visual(kwargs) and _holds_earlier_turns(signature.get(Arg.CACHE, args, kwargs))
        ids, mask = signature.get(Arg.IDS, args, kwargs), signature.get(Arg.MASK, args, kwargs)
        with self._session.begin_call(ids, continues, mask=mask) as call:
            self._note_visual_inputs(call, kwargs)
            yield call

    def is_visual(self, kwargs: Mapping[str, Any]) -> bool:
        """Whether the inputs of a forward include anything but text."""
        values = [kwargs.get(name) for name in (*self._session.visual_inputs, Arg.ENCODED, Arg.EMBEDS)]
        # Without encoder outputs, stock code passes an empty mapping.
        return any(value is not None and not (isinstance(value, dict) and not value) for value in values)

    def _timed_forward(
        self, call: CallState, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        timed = call.reads_prompt
        if timed:
            call.clock.enter("prefill")
        try:
            return original(*args, **kwargs)
        finally:
            call.reads_prompt = False
            if timed:
                call.clock.leave()
                call.clock.turn_into("decode_tokens")

    def _check_labels(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._of_model.get(Arg.LABELS, args, kwargs) is not None:
            raise InputError("labels do not fit the pruned sequence: leave them out, or leave the attach context")

    def _note_visual_inputs(self, call: CallState, kwargs: Mapping[str, Any]) -> None:
        """Record that the call has pixels to encode, or features that cannot be pruned; see `check_inputs`."""
        for family in self._session.families:
            if any(kwargs.get(name) is not None for name in family.visual_inputs):
                call.given.add(family.feature_method)
        if kwargs.get(Arg.ENCODED) and not self._session.identity:
            self._session.records.note(GIVEN_FEATURES)
        if (call.given or call.context.continues) and not self._session.identity:
            self._family.layout.check_inputs(call.context.prompt, kwargs)

    # --- what `generate` prepares for a forward -------------------------------------------------------------------

    def prepare_inputs(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The stock preparation of a forward, with the unpruned length of a cache."""
        session, signature = self._session, self._of_prepare
        call = session.current_call()
        if call is None:
            return original(*args, **kwargs)
        call.reads_prompt = bool(signature.get(Arg.FIRST_FORWARD, args, kwargs))
        if session.identity:
            return original(*args, **kwargs)
        if not call.reads_prompt:
            # The prompt was read by the forward before.
            session.check_hooks_ran(call)
        state = get_state(signature.get(Arg.CACHE, args, kwargs))
        unpruned = None if state is None else state.unpruned
        has_length = call.reads_prompt and signature.get(Arg.NEW_LENGTH, args, kwargs) is not None
        if unpruned is not None and has_length:
            embeds = signature.get(Arg.EMBEDS, args, kwargs)
            length = (signature.get(Arg.IDS, args, kwargs) if embeds is None else embeds).shape[1]
            args, kwargs = signature.changed(args, kwargs, {Arg.NEW_LENGTH: length - unpruned.length})
        inputs = original(*args, **kwargs)
        if state is not None or self.is_visual(inputs):
            # For a static cache, stock code prepares the mask here, for positions that pruning will change: the text
            # model can prepare it later.
            mask = inputs.get(Arg.MASK)
            if mask is not None and not (isinstance(mask, Tensor) and mask.dim() == 2):
                inputs[Arg.MASK] = signature.get(Arg.MASK, args, kwargs)
        return inputs

    def prepare_position_ids(self, original: Callable[..., Any], inputs: Any, options: dict[str, Any]) -> Any:
        """The stock position ids of several axes, made from the unpruned length of a cache."""
        family, call = self._family, self._session.current_call()
        if call is None or self._session.identity:
            return original(inputs, options)
        if family.keeps_positions and any(options.get(name) is not None for name in family.visual_inputs):
            # Stock code fails here, without a helpful message, if the placeholders do not fit.
            names = inspect.signature(getattr(family.encoder, family.feature_method)).parameters
            encoder_inputs = {name: options[name] for name in names if name in options}
            self._encoder.check_prompts(call, family.layout.clips(call.context.prompt, **encoder_inputs))
        state = get_state(value_of(options, Arg.CACHE))
        if state is None or state.unpruned is None:
            return original(inputs, options)
        unpruned = state.unpruned
        options = options | self._of_prepare.values({Arg.CACHE: UnprunedLength(unpruned.length)})
        if unpruned.next_id is None:
            return original(inputs, options)
        with self._rope_deltas:
            # Stock code uses the offset of its last call, whichever that was.
            length = state.first.valid.sum(dim=1, keepdim=True) + unpruned.dropped
            family.encoder.rope_deltas = unpruned.next_id - length
            return original(inputs, options)

    # --- tags in encoder outputs ----------------------------------------------------------------------------------

    def hide_tags(self, call: CallState, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs before all other hooks on the model, so that these get features without tags."""
        outputs = kwargs.get(Arg.ENCODED)
        if not call.has_dropped or not outputs:
            return None
        call.hidden_tags = {kind: tag_mask(output.pooler_output) for kind, output in outputs.items()}
        clean = {kind: remove_tags(output, self._family.width) for kind, output in outputs.items()}
        return args, kwargs | {Arg.ENCODED: clean}

    def restore_tags(self, call: CallState, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Reverses `hide_tags`, after all hooks on the model without its head."""
        hidden, call.hidden_tags = call.hidden_tags, None
        if not hidden:
            return kwargs
        outputs = dict(kwargs[Arg.ENCODED])
        for kind, tagged in hidden.items():
            outputs[kind] = copy(outputs[kind])
            outputs[kind].pooler_output = restore_tags(outputs[kind].pooler_output, tagged)
        return kwargs | {Arg.ENCODED: outputs}


def _holds_earlier_turns(cache: Any) -> bool:
    """Whether a cache holds anything; the state of one that was emptied is removed."""
    if cache is None:
        return False
    if int(cache.get_seq_length()):
        return True
    clear_state(cache)
    return False
