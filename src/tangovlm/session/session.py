"""A method on a model: the object that `attach` yields, which all calls of the model share."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import Event, Lock, get_ident
from typing import Any

from torch import nn

from ..errors import ModelError
from ..inputs import timestamps as times
from ..machine.stopwatch import Stopwatch
from ..methods.build import Method, Plan
from ..models.common.family import Family
from ..tokens import Report
from ..tower.changed import Changed
from .call_context import CallContext
from .call_state import CallState, current_call, running
from .memo import Memo
from .records import Recording, Records, VideoRecord

STAGES = ("encode", "prune", "prefill", "decode_tokens")


class Session:
    """A method on a model, as `attach` yields it.

    Attributes
    ----------
    report: of all calls since the model was attached, one entry for each video in the order in which they were encoded.
        A call is included when it ends.
    videos: a `VideoRecord` for each of them; empty unless recording was requested.
    """

    def __init__(
        self,
        family: Family,
        pruner: Method,
        plan: Plan,
        *,
        timestamps: Any = None,
        record: bool | Recording = False,
        positions: str = "contiguous",
        chunk_frames: int | None = None,
        newlines: str = "kept",
        changed: Changed | None = None,
        images: Family | None = None,
        in_turn: bool = False,
        memo: Memo | None = None,
    ) -> None:
        self.family = family
        self.pruner = pruner
        self.plan = plan
        self.original_positions = positions == "original"
        self.chunk_frames = chunk_frames
        self.newlines = newlines
        self.changed = changed
        self.families = (family,) if images is None else (family, images)
        self.in_turn = in_turn
        self.memo = memo
        self.records = Records(record)
        self.thread = get_ident()
        self.detached = Event()
        self._context = CallContext(family, None if timestamps is None else times.given(timestamps))
        self._totals_ms = dict.fromkeys(STAGES, 0.0)
        self._lock = Lock()
        self._running = 0
        self._closed = False
        self._undo: ExitStack | None = None
        for note in plan.notes:
            self.records.note(note)

    @property
    def identity(self) -> bool:
        """Whether everything is kept, so that the model must run unchanged."""
        return self.plan.before is None and self.plan.inside is None

    @property
    def prunes_images(self) -> bool:
        """Whether images are pruned too."""
        return len(self.families) > 1 and self.plan.before is not None

    @property
    def visual_inputs(self) -> tuple[str, ...]:
        """Arguments of the model with pixels that are pruned."""
        return tuple(name for family in self.families for name in family.visual_inputs)

    @property
    def needs(self) -> frozenset[str]:
        """Signals that must be computed."""
        before = self.plan.before
        return frozenset() if before is None else self.family.signals.readable(before)

    @property
    def saliency(self) -> str:
        """The kind of saliency that is computed: the family's, if it was given one, else the method's `signal`."""
        return self.family.signals.resolve_saliency(getattr(self.pruner, "signal", None))

    @property
    def report(self) -> Report:
        """Counts of each video, notes, and ms per stage (`decode_tokens` of `generate` only) of all calls so far."""
        with self._lock:
            return Report(tuple(self.records.reports), dict(self._totals_ms), tuple(self.records.notes))

    @property
    def videos(self) -> list[VideoRecord]:
        """What pictures need, one entry for each video; empty unless recording was requested."""
        return self.records.videos

    # --- calls ----------------------------------------------------------------------------------------------------

    def current_call(self) -> CallState | None:
        """The call that runs in this thread; None if there is none."""
        return current_call(self)

    @contextmanager
    def begin_call(
        self, input_ids: Any, continues: bool, is_generate: bool = False, mask: Any = None
    ) -> Iterator[CallState]:
        """A new call by the user, without anything of an earlier one; hooks find it for as long as the context lasts.

        Parameters
        ----------
        input_ids, continues: see `CallContext`.
        is_generate: whether it is a `generate`.
        mask: attention mask of the prompts.

        Raises
        ------
        ModelError: on exit, if the hooks on the model did not run.
        """
        context = self._context.for_call(input_ids, continues, mask)
        call = CallState(self, context, Stopwatch(self.family.device, STAGES), is_generate=is_generate)
        with self._lock:
            self._running += 1
        try:
            with running(call):
                yield call
                self.check_hooks_ran(call)
        finally:
            with self._lock:
                self._running -= 1
                for stage, ms in call.clock.totals_ms.items():
                    self._totals_ms[stage] += ms
                undo = self._undo if not self._running else None
            if undo is not None:
                self._detach(undo)

    def check_hooks_ran(self, call: CallState) -> None:
        """Raise `ModelError` if the model bypassed the hooks on it, so that its output is not an answer."""
        if self.identity:
            return
        for method in sorted(call.given - call.encoded):
            raise ModelError(
                f"the model was given pixels, but did not call {method}, so that nothing was pruned: {hooks_advice()}"
            )
        if call.has_dropped and not call.is_spliced:
            raise ModelError(f"dropped tokens were not removed before the text model: {hooks_advice()}")

    def hook(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A hook that calls a function with (call, module, args, ...), and does nothing outside of calls."""

        def hook(module: nn.Module, *arguments: Any) -> Any:
            call = current_call(self)
            return None if call is None else function(call, module, *arguments)

        return hook

    # --- the end of the context -----------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether the context was left; calls that still run end as they began."""
        return self._closed

    def close(self, undo: ExitStack) -> None:
        """Leave the context: restore the model by `undo`, as soon as no call runs."""
        with self._lock:
            self._closed = True
            if self._running:
                self._undo = undo
                return
        self._detach(undo)

    def _detach(self, undo: ExitStack) -> None:
        undo.close()
        self.detached.set()


def hooks_advice() -> str:
    """Why hooks may not have run, and what to do, for messages."""
    import transformers

    return (
        f"hooks of tangovlm did not run. If torch.compile has run on the model or a part of it, attach first and then "
        "compile, or set torch._dynamo.config.skip_nnmodule_hook_guards = False before compiling; else this release "
        f"of transformers ({transformers.__version__}) may not be supported (run `tangovlm doctor`)"
    )
