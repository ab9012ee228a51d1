"""A method on a model: what `attach` yields, and what all calls of the model share."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import Event, Lock, get_ident
from typing import Any

from torch import nn

from ..errors import ModelError
from ..inputs import timestamps as times
from ..machine.stopwatch import Stopwatch
from ..methods.build import Pair, Plan
from ..methods.in_llm.common.base import InLLMMethod
from ..models.common.family import Family
from ..models.common.transformers_compat import Arg, Signature
from ..tokens import Pruner, Report
from .call_context import CallContext
from .call_state import CallState, current, running
from .in_llm.runner import Runner
from .memo import Memo
from .records import Records, VideoRecord

STAGES = ("encode", "prune", "prefill", "decode_tokens")
_READ = (Arg.EMBEDS, Arg.MASK, Arg.POSITIONS, Arg.CACHE)


class Session:
    """A method on a model; what `attach` yields.

    `report` adds up all calls since the model was attached: one entry a video in the order in which they were encoded.
    `videos` has a `VideoRecord` for each of them if the session was asked to record. A call counts when it ends.
    """

    def __init__(
        self,
        family: Family,
        pruner: Pruner | InLLMMethod | Pair,
        plan: Plan,
        timestamps: Any = None,
        record: bool = False,
        positions: str | None = None,
        chunk_frames: int | None = None,
        newlines: str = "kept",
        memo: Memo | None = None,
    ) -> None:
        self.family = family
        self.pruner = pruner
        self.plan = plan
        self.original_positions = positions == "original" or family.keeps_positions
        self.chunk_frames = chunk_frames
        self.newlines = newlines
        self.memo = memo
        self.records = Records(record)
        self._told = CallContext(family, None if timestamps is None else times.given(timestamps))
        self._totals_ms = dict.fromkeys(STAGES, 0.0)
        self._lock = Lock()
        self._running = 0
        self._closed = False
        self._undo: ExitStack | None = None
        self.in_turn = False
        self.thread = get_ident()
        self.left = Event()
        for note in plan.notes:
            self.records.note(note)
        layers: Any = family.decoder.layers
        self.of_model = Signature(family.model.forward, "the model", () if self.identity else _READ)
        self.of_base = Signature(family.encoder.forward, "the model without its head", () if self.identity else _READ)
        self.of_decoder = Signature(family.decoder.forward, "the text model", () if self.identity else _READ)
        self.runner = None
        if plan.inside is not None:
            layer = Signature(layers[0].forward, "a layer of the text model", (Arg.CACHE, Arg.MASK, Arg.ROTARY))
            self.runner = Runner(family.decoder, plan.inside, plan.cuts, layer, self._inside)

    @property
    def identity(self) -> bool:
        """Whether everything is kept, so that the model must run untouched."""
        return self.plan.before is None and self.plan.inside is None

    @property
    def needs(self) -> frozenset[str]:
        """Signals that have to be computed."""
        return frozenset() if self.plan.before is None else self.plan.before.needs

    @property
    def saliency(self) -> str:
        """Which saliency the family observes: the one it was given, else the one that the method is meant for."""
        return self.family.resolve_saliency(getattr(self.pruner, "signal", None))

    @property
    def report(self) -> Report:
        """All calls so far: counts per video, fallbacks, ms per stage (`decode_tokens` of `generate` only)."""
        with self._lock:
            return Report(tuple(self.records.reports), dict(self._totals_ms), tuple(self.records.notes))

    @property
    def videos(self) -> list[VideoRecord]:
        """What pictures need, one entry a video; empty unless the session was asked to record."""
        return self.records.videos

    # --- calls ----------------------------------------------------------------------------------------------------

    def call(self) -> CallState | None:
        """The call that runs in this thread; None if there is none."""
        return current(self)

    @property
    def closed(self) -> bool:
        """Whether the context has been left; calls that still run end as they began."""
        return self._closed

    @contextmanager
    def begun(self, input_ids: Any, continues: bool, generates: bool = False) -> Iterator[CallState]:
        """A call of the user's: nothing that an earlier one knew holds any more.

        Parameters
        ----------
        input_ids, continues: see `CallContext`.
        generates: whether it is a `generate`.

        Raises
        ------
        ModelError: at its end, if the hooks on the model did not run.
        """
        told = self._told.begun(input_ids, continues)
        call = CallState(self, told, Stopwatch(self.family.device, STAGES), generates=generates)
        with self._lock:
            self._running += 1
        try:
            with running(call):
                yield call
                self.check(call)
        finally:
            with self._lock:
                self._running -= 1
                for stage, ms in call.clock.totals_ms.items():
                    self._totals_ms[stage] += ms
                undo = self._undo if not self._running else None
            if undo is not None:
                self._leave(undo)

    def check(self, call: CallState) -> None:
        """Raise `ModelError` if the model went around the hooks on it, so that what it gives is no answer."""
        if self.identity:
            return
        if call.visual and not call.encoded:
            raise ModelError(
                f"the model was given pixels, but did not call {self.family.feature_method}, so that nothing was "
                f"pruned: {went_around()}"
            )
        if call.dropped and not call.taken_out:
            raise ModelError(f"dropped tokens were not taken out in front of the text model: {went_around()}")

    def close(self, undo: ExitStack) -> None:
        """Leave the context: undo what was put on the model, once no call runs any more."""
        with self._lock:
            self._closed = True
            if self._running:
                self._undo = undo
                return
        self._leave(undo)

    def _leave(self, undo: ExitStack) -> None:
        undo.close()
        self.left.set()

    def hook(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function of (call, module, args, ...) as a hook, which does nothing outside of calls."""

        def hook(module: nn.Module, *arguments: Any) -> Any:
            call = current(self)
            return None if call is None else function(call, module, *arguments)

        return hook

    def _inside(self) -> Any:
        call = current(self)
        return None if call is None else call.inside


def went_around() -> str:
    """Why hooks may not have run, and what to do."""
    import transformers

    return (
        f"hooks of tangovlm did not run. If torch.compile has run on the model or a part of it, attach first and then "
        "compile, or set torch._dynamo.config.skip_nnmodule_hook_guards = False before compiling; else this release "
        f"of transformers ({transformers.__version__}) may not be supported (run `tangovlm doctor`)"
    )
