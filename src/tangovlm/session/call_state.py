"""What one call of an attached model remembers between its hooks.

A call is one `generate`, or one forward of the model, or of the model without its head, that the user makes. Its hooks
find it by the thread and the context (`contextvars`) in which they run, so that calls of several threads do not touch
each other.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from threading import get_ident
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..machine.stopwatch import Stopwatch
from ..models.common.layout import Grid
from ..models.common.taps import Tap
from . import splice
from .call_context import CallContext
from .memo import Entry

if TYPE_CHECKING:
    from .in_llm.runner import Pass


@dataclass(eq=False)
class CallState:
    """One call.

    Parameters
    ----------
    owner: the session that it belongs to.
    told: what the caller says of it.
    clock: its times.
    generates: whether it is a `generate`.
    visual: whether the caller gave pixels for it.
    encoded: whether the vision encoder was called.
    dropped: whether any feature was dropped; `taken_out`: whether the text model was handed what is left.
    places: of its videos in the records, as long as no language model has read them.
    grids: of its videos.
    entries: what was written down of them.
    taps: hooks on the vision encoder while its signals are observed, else None.
    hidden: tags of encoder outputs that are shown without, by kind.
    first_forward: whether the next forward reads the prompt.
    may_hold_tags: whether what the text model is handed next can hold tags.
    ids: prompts ``(B, Q)`` of the present forward, for pruning inside the model.
    step: what the text model is handed in the present forward.
    inside: of the present forward, for pruning inside the model.
    """

    owner: Any
    told: CallContext
    clock: Stopwatch
    generates: bool = False
    visual: bool = False
    encoded: bool = False
    dropped: bool = False
    taken_out: bool = False
    places: list[int] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    taps: list[Tap] | None = None
    hidden: dict[str, Any] | None = None
    first_forward: bool = False
    may_hold_tags: bool = False
    ids: Tensor | None = None
    step: splice.Advance | None = None
    inside: "Pass | None" = None
    thread: int = field(default_factory=get_ident)


_CALLS: ContextVar[tuple[CallState, ...]] = ContextVar("tangovlm_calls", default=())


def current(owner: Any) -> CallState | None:
    """The innermost call of a session that runs in this thread and context; None if there is none.

    A thread that was started with a copy of a call's context, as `asyncio.to_thread` does, is not in the call.
    """
    thread = get_ident()
    return next((call for call in reversed(_CALLS.get()) if call.owner is owner and call.thread == thread), None)


@contextmanager
def running(call: CallState) -> Iterator[CallState]:
    """Within the context, hooks find the call."""
    before = _CALLS.get()
    _CALLS.set((*before, call))
    try:
        yield call
    finally:
        _CALLS.set(before)
