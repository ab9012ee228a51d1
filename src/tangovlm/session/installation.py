"""Patches and hooks of a session on its model: installed when it begins, removed when it ends."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from threading import Lock
from typing import Any, NamedTuple

from ..errors import ModelError
from .decoder import Decoder
from .encoding.encoder import Encoder
from .generate import Generation
from .patching import make_copyable, patch_method
from .session import Session

_MARK = "_tangovlm_attached"
# Only one thread at a time may check that a model is not attached, and attach it.
_ATTACHING = Lock()


class CallParts(NamedTuple):
    """The parts of a call, in the order in which they run; see the docstring of this module."""

    generation: Generation
    encoders: Sequence[Encoder]
    decoder: Decoder

    @classmethod
    def of(cls, session: Session) -> "CallParts":
        """The parts of the calls of a session."""
        encoders = [Encoder(session, family) for family in session.families]
        generation = Generation(session, encoders[0])
        return cls(generation, encoders, Decoder(session, generation))


def installed(session: Session, parts: CallParts) -> ExitStack:
    """Install a session on its model, as soon as no other session that takes turns has it; returns what removes it.

    Raises
    ------
    ModelError: the model is attached, and not to a session that takes turns.
    """
    family = session.family
    while True:
        with _ATTACHING:
            other = getattr(getattr(family.encoder, family.feature_method), _MARK, None)
            if other is None:
                with ExitStack() as undo:
                    _install(session, parts, undo)
                    return undo.pop_all()
        _wait_until_detached(other, session)


def _wait_until_detached(other: Session, session: Session) -> None:
    """Wait until another session has left the model; raises `ModelError` if that could take forever."""
    if not (session.in_turn and other.in_turn and other.thread != session.thread):
        raise ModelError(
            "a call that began in an earlier attach context still runs: wait for it to end"
            if other.closed
            else "the model is already attached: leave that context first"
        )
    other.detached.wait()


def _install(session: Session, parts: CallParts, undo: ExitStack) -> None:
    """Install the patches and hooks of a session on its model; `undo` removes them."""
    generation, encoders, decoder = parts
    family = session.family
    model, base, text = family.model, family.encoder, family.decoder
    methods: list[tuple[Any, str, Callable[..., Any]]] = [
        *((base, each.feature_method, run.get_features) for each, run in zip(session.families, encoders, strict=True)),
        (model, "generate", generation.generate),
        (model, "forward", generation.forward),
        (model, "prepare_inputs_for_generation", generation.prepare_inputs),
    ]
    if not session.identity:
        methods += [
            (model, "_prepare_position_ids_for_generation", generation.prepare_position_ids),
            (base, "forward", decoder.forward_base),
            (text, "forward", decoder.forward_text),
        ]
    for owner, name, wrapper in methods:
        setattr(undo.enter_context(patch_method(owner, name, wrapper)), _MARK, session)
    if session.identity:
        return
    first: dict[str, Any] = {"prepend": True, "with_kwargs": True}
    handles = [
        model.register_forward_pre_hook(session.hook(generation.hide_tags), **first),
        text.register_forward_pre_hook(session.hook(decoder.splice_inputs), **first),
        *encoders[0].register_hooks(),
    ]
    if session.original_positions:
        hook = session.hook(decoder.remove_position_ids)
        layers: Any = text.layers
        handles += [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in layers]
    if decoder.runner is not None:
        handles += decoder.runner.register_hooks()
    for handle in handles:
        make_copyable(handle)
        undo.callback(handle.remove)
