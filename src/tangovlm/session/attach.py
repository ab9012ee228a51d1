"""Put a method on a loaded model, and take it off again.

How it works, in the order in which a call of `generate` meets it:

1. `generate` and the model's forward begin a call (`session.call_state`) and give up `video_metadata`, which stock
   models do not take; its timestamps are kept. Hooks find the call by their thread and context.
2. The method that makes features (`get_video_features` in most models) runs the stock encoder, a chunk of frames at a
   time, with hooks for the signals, reduces every video, and returns as many features as before: kept ones with their
   new values, dropped ones tagged (`session.splice`). So all checks of the stock model pass.
3. `prepare_inputs_for_generation` and what makes position ids are given the unpruned length of a cache, which they
   take for the position in the prompt.
4. In front of the text model the tagged rows are taken out and positions renumbered, or kept tokens keep their own
   where these have several rows (M-RoPE). What must be known of a cache lives on the cache and changes with it
   (`session.carried`), so that a conversation can go on. Tags are hidden from everybody else's hooks.
5. For a method inside the language model, hooks in front of its layers shorten the prompt once more
   (`session.in_llm.runner`).

Everything is put on the instance, nothing on its class, and all of it is removed on exit. A call whose hooks did not
run raises.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from ..errors import InputError, MethodError, ModelError
from ..methods.build import Pair, plan
from ..methods.in_llm.common.base import InLLMMethod
from ..models.common.chunks import check_chunk_frames
from ..models.common.family import Family
from ..registry import family_for
from ..selfcheck.release import check_release
from ..tokens import Pruner
from . import Session
from .decoder import Decoder
from .encode import Encoder
from .generate import Generation
from .memo import Memo
from .method_patch import as_copyable, shadowed
from .newlines import check_newlines
from .splice import POSITIONS
from .wrappers import unwrapped

_MARK = "_tangovlm_attached"


@contextmanager
def attach(
    model: Any,
    pruner: Pruner | InLLMMethod | Pair,
    *,
    timestamps: Any = None,
    saliency: str | None = None,
    head_weights: str | Path | None = None,
    record: bool = False,
    positions: str | None = None,
    chunk_frames: int | None = None,
    newlines: str = "kept",
) -> Iterator[Session]:
    """Run a method inside a stock model for as long as the context lasts.

    Within it `model.generate(...)` and `model(...)` are called as always and return what they always return (the prompt
    in front of the answer); `model(...)` returns logits of the shorter sequence, each row padded on the left. With
    retention 1.0 the model runs untouched. A cache that was filled within the context must be used within it.

    Several threads may call the model; each gets the answers that it would get alone. A call that still runs in another
    thread when the context is left ends as it began, and only then is the model free to be attached again; calls that
    begin later are the stock model's. `get_video_features` called by hand is the stock one, and features that are
    handed to a call in place of pixels are not pruned, which the report says. Where a model gives features of videos
    back, those of dropped tokens are zero. Copies and pickles of an attached model are plain models.

    Parameters
    ----------
    model: a loaded `transformers` model of a supported architecture, also within the wrapper of `torch.compile`, PEFT
        or (Distributed)DataParallel. Compile it after it was attached.
    pruner: a method before the language model such as `tangovlm.Tango(retention=0.1)`, one inside it such as
        `tangovlm.method("fastv", retention=0.5)`, or a pair such as `tangovlm.method("tango+tango-fastv")`.
    timestamps: seconds of the frames: one tensor ``(T,)`` for all videos of a call, or a list with one for each.
        None: those of the `video_metadata` handed to a call, else frames are taken as one second apart, which the
        report says.
    saliency: "p-attn", "attn" or "mean-query" (see `tangovlm models` for those of a family); None for the one that the
        method is meant for (its `signal`), else the family's first, which the report says.
    head_weights: safetensors file, checkpoint directory or hub id with SigLIP's pooling head, for a checkpoint
        without it.
    record: keep what pictures need in `Session.videos`.
    positions: "contiguous" gives the shorter sequence position ids without gaps, as the authors' code does for LLaVA;
        "original" leaves every kept token the position id that it has in the unpruned prompt. None: contiguous, but
        original for models with M-RoPE, which take nothing else. Where ids are counted, they take the place of a
        caller's own `position_ids`.
    chunk_frames: the most frames that the vision encoder is given at a time, which bounds its working memory; None for
        what takes about 512 MiB on the CPU, or a sixteenth of a CUDA device (of its size, not of what is free, so that
        results do not depend on that), and for all at once where nothing is pruned before the language model. Features
        of several chunks equal those of one up to rounding.
    newlines: what a model puts behind the rows of a video's grid (LLaVA-Video) or behind the video (LLaVA-OneVision).
        "kept": the retention is that of the tokens, newlines stay as in the authors' code and come on top, see
        `VideoReport.newlines_after`. "counted": the retention is that of tokens and newlines together, which is met as
        nearly as it can be without exceeding it.

    Raises
    ------
    ModelError: unsupported architecture, a model that is attached already, no weights for the saliency, a signal
        that the family does not give, or a release of transformers that is not tested and on which the family's checks
        fail (`selfcheck.release`).
    MethodError: something else than a method.
    InputError: unknown positions, newlines or saliency, chunk_frames below 1, NaN features, timestamps that do not fit,
        labels together with pruning, a prompt with other placeholders than its videos have features or beyond the
        model's context (also where nothing is pruned), a budget with newlines that holds no token, a device that is out
        of memory while encoding or pruning.
    """
    model = unwrapped(model)
    family = family_for(model)(model, saliency=saliency, head_weights=head_weights)
    options: dict[str, Any] = {"positions": positions, "chunk_frames": chunk_frames, "newlines": newlines}
    with attach_family(family, pruner, timestamps=timestamps, record=record, **options) as session:
        yield session


@contextmanager
def attach_family(
    family: Family,
    pruner: Pruner | InLLMMethod | Pair,
    *,
    timestamps: Any = None,
    record: bool = False,
    positions: str | None = None,
    chunk_frames: int | None = None,
    newlines: str = "kept",
    in_turn: bool = False,
    memo: Memo | None = None,
) -> Iterator[Session]:
    """As `attach`, for a model already bound to its family (which then keeps the head weights it has read).

    Parameters
    ----------
    in_turn: where another thread has attached the model in turn too, wait until its context is left.
    memo: keeps the features of the last call's videos, so that the next call with the same pixels does not encode them.
    """
    check_method(pruner)
    if positions not in (None, *POSITIONS):
        raise InputError(f"positions is {positions!r}: choose {' or '.join(map(repr, POSITIONS))}")
    if positions == "contiguous" and family.keeps_positions:
        raise InputError(
            f"positions is 'contiguous', but the family {family.name} keeps M-RoPE positions: leave it out"
        )
    check_chunk_frames(chunk_frames)
    layers: Any = family.decoder.layers
    planned = plan(pruner, len(layers))
    check_newlines(newlines, planned.before)
    session = Session(family, pruner, planned, timestamps, record, positions, chunk_frames, newlines, memo)
    family.check(pruner.name, session.needs, session.saliency)
    family.prepare(session.needs, session.saliency)
    if not session.identity:
        check_release(family.model, session.plan.inside, attach)
    session.in_turn = in_turn
    while True:
        with _INSTALLING:
            other = getattr(getattr(family.encoder, family.feature_method), _MARK, None)
            if other is None:
                with ExitStack() as building:
                    install(session, building)
                    undo = building.pop_all()
                break
        wait_for(other, session)
    try:
        yield session
    finally:
        session.close(undo)


# Attaching looks whether a model is free, and then takes it: one thread at a time.
_INSTALLING = Lock()


def wait_for(other: Session, session: Session) -> None:
    """Wait until another session has left the model, or raise `ModelError` where waiting might never end."""
    if not (session.in_turn and other.in_turn and other.thread != session.thread):
        raise ModelError(
            "a call that began in an earlier attach context still runs: wait for it to end"
            if other.closed
            else "the model is attached already: leave that context first"
        )
    other.left.wait()


def install(session: Session, undo: ExitStack) -> None:
    """Put methods and hooks on a model; `undo` takes them off."""
    family = session.family
    model, encoder = family.model, family.encoder
    decoder: Any = family.decoder
    encode = Encoder(session)
    generation = Generation(session, encode)
    reading = Decoder(session, generation)
    methods: list[tuple[Any, str, Any]] = [
        (encoder, family.feature_method, encode),
        (model, "generate", generation.generate),
        (model, "forward", generation.forward),
        (model, "prepare_inputs_for_generation", generation.prepare_inputs),
    ]
    if not session.identity:
        methods += [
            (model, "_prepare_position_ids_for_generation", generation.position_ids),
            (encoder, "forward", reading.base),
            (decoder, "forward", reading.text),
        ]
    for owner, name, wrapper in methods:
        setattr(undo.enter_context(shadowed(owner, name, wrapper)), _MARK, session)
    if session.identity:
        return
    first: dict[str, Any] = {"prepend": True, "with_kwargs": True}
    handles = [
        model.register_forward_pre_hook(session.hook(generation.hide_tags), **first),
        decoder.register_forward_pre_hook(session.hook(reading.before_text), **first),
        *encode.hooks(),
    ]
    if session.original_positions:
        hook = session.hook(reading.before_layer)
        handles += [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in decoder.layers]
    if session.runner is not None:
        handles += session.runner.hooks()
    for handle in handles:
        as_copyable(handle)
        undo.callback(handle.remove)


def check_method(pruner: object) -> None:
    """Raise `MethodError` unless it is a method that can be attached."""
    if (
        isinstance(pruner, type)
        or not (callable(pruner) or isinstance(pruner, Pair))
        or not hasattr(pruner, "retention")
    ):
        raise MethodError(f"attach takes a method such as tangovlm.Tango(retention=0.1), not {pruner!r}")
