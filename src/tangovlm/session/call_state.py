"""The state of one call of an attached model, which its hooks share.

A call is one `generate`, or one forward of the model or of the model without its head, that the user makes. Hooks find
it by the thread and the context (`contextvars`) in which they run, so that calls of several threads are independent.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from threading import get_ident
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..machine.stopwatch import Stopwatch
from ..models.common.layout import Grid
from ..models.common.signals import ForwardHook
from .call_context import CallContext
from .splice import SplicedInputs

if TYPE_CHECKING:
    from .in_llm.first_pass import Choice
    from .in_llm.forward_pass import ForwardPass


@dataclass(eq=False)
class ForwardState:
    """One forward of the model without its head.

    Parameters
    ----------
    may_have_tags: whether the input embeddings of the text model can hold tags.
    input_ids: prompts ``(B, Q)``, for a method inside the language model.
    spliced: the inputs of the text model, if they were changed.
    in_llm: the forward of the text model, if a method inside it has something to do.
    choices: what a first pass chose of the video of a batch entry, and its milliseconds.
    defers_masks: whether the text model makes the masks of its layers in place of the model that calls it.
    mask: the attention mask of the model, if so.
    blocks: ``(B, Q)``, see `Family.attention_blocks`.
    """

    may_have_tags: bool = False
    input_ids: Tensor | None = None
    spliced: SplicedInputs | None = None
    in_llm: "ForwardPass | None" = None
    choices: "dict[int, tuple[Choice, float]]" = field(default_factory=dict)
    defers_masks: bool = False
    mask: Any = None
    blocks: Tensor | None = None


@dataclass(eq=False)
class CallState:
    """One call.

    Parameters
    ----------
    session: the session that the call belongs to.
    context: what its arguments say of its prompts and videos.
    clock: its times.
    is_generate: whether it is a `generate`.
    given, encoded: the feature methods for whose pixels there are arguments, and those that ran.
    is_encoding: whether one of them runs; stock code may encode videos by the method for images.
    has_dropped: whether any token of a video was dropped before the language model.
    is_spliced: whether dropped tokens were removed from the inputs of the text model.
    records: indices in the session's records of the videos that the language model has not read yet.
    media: token grids of its videos, and of its images if they are pruned, by feature method.
    taps: hooks on the vision encoder while its signals are recorded, else None.
    hidden_tags: tags that were removed from encoder outputs, to be restored before they are used; by kind of output.
    reads_prompt: whether the next forward reads the prompt.
    forward: the present forward.
    thread: in which it runs.
    """

    session: Any
    context: CallContext
    clock: Stopwatch
    is_generate: bool = False
    given: set[str] = field(default_factory=set)
    encoded: set[str] = field(default_factory=set)
    is_encoding: bool = False
    has_dropped: bool = False
    is_spliced: bool = False
    records: list[int] = field(default_factory=list)
    media: dict[str, list[Grid]] = field(default_factory=dict)
    taps: list[ForwardHook] | None = None
    hidden_tags: dict[str, Any] | None = None
    reads_prompt: bool = False
    forward: ForwardState = field(default_factory=ForwardState)
    thread: int = field(default_factory=get_ident)

    @property
    def grids(self) -> list[Grid]:
        """Of all `media`."""
        return [grid for grids in self.media.values() for grid in grids]


_CALLS: ContextVar[tuple[CallState, ...]] = ContextVar("tangovlm_calls", default=())


def current_call(session: Any) -> CallState | None:
    """The innermost call of a session that runs in this thread and context; None if there is none.

    A thread that was started with a copy of a call's context, as `asyncio.to_thread` does, is outside the call.
    """
    thread = get_ident()
    return next((call for call in reversed(_CALLS.get()) if call.session is session and call.thread == thread), None)


@contextmanager
def running(call: CallState) -> Iterator[CallState]:
    """Make a call the one that hooks find, for as long as the context lasts."""
    before = _CALLS.get()
    _CALLS.set((*before, call))
    try:
        yield call
    finally:
        _CALLS.set(before)


def tap_hook(number: int) -> Callable[..., None]:
    """A hook of the call that runs, see `CallState.taps`."""

    def hook(call: CallState, module: nn.Module, *arguments: Any) -> None:
        if call.taps is not None:
            call.taps[number].function(module, *arguments)

    return hook
