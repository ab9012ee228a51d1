"""Attach a method to a loaded model, and detach it.

What happens in one call of `generate`, in order:

1. Call (`generate.py`). `generate` or the model's forward begins a call: a `CallState` with a `CallContext`, which
   hooks look up by thread and `contextvars` context. `video_metadata`, which stock models do not accept, becomes the
   timestamps of the frames.
2. Encode (`encoding/`). The stock method that computes features (`get_video_features` in most models) runs, a chunk of
   frames at a time, with hooks that record the signals. The method selects tokens, and `splice.splice_selection` writes
   the selection into the features: as many as before, with new values for kept tokens and tags for dropped ones, so
   that all checks of the stock model pass.
3. Prepare (`generate.py`). `prepare_inputs_for_generation` and the code that makes position ids are given the
   length of the cache without pruning, because they use it as the position in the prompt.
4. Decode (`decoder.py`). Just before the text model, `splice.remove_dropped` removes the tagged features and assigns
   positions: without gaps, or those of the unpruned prompt (always for M-RoPE). The positions that a cache holds are
   stored on it (`cache_state.py`), so that a conversation can continue. Other hooks never see tags.
5. Prune inside (`in_llm/runner.py`). For a method inside the language model, hooks before its layers shorten the prompt
   again. A method that ranks the tokens of a long video in a pass of its own does so between steps 3 and 4
   (`in_llm/first_pass.py`); what it drops is removed like tagged features.

All patches and hooks are on the instance, none on its class, and all are removed on exit. A call whose hooks did not
run raises an error.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import InputError, MethodError
from ..methods.build import Method, Pair, Plan, plan
from ..models.common.chunks import check_chunk_frames
from ..models.common.family import Family
from ..models.generic import Generic
from ..registry import family_for, find_family
from ..selfcheck.generic import check_generic
from ..selfcheck.release import check_release
from ..tower.changed import Changed, resolve
from .encoding.newlines import check_newlines
from .installation import CallParts, installed
from .memo import Memo
from .records import Recording
from .session import Session
from .unwrap import unwrap


@contextmanager
def attach(
    model: Any,
    pruner: Method,
    *,
    timestamps: Any = None,
    saliency: str | None = None,
    head_weights: str | Path | None = None,
    record: bool | Recording = False,
    positions: str | None = None,
    chunk_frames: int | None = None,
    newlines: str = "kept",
    encode: str | Changed = "all",
    images: bool = False,
    family: str | None = None,
) -> Iterator[Session]:
    """Run a method inside a stock model for as long as the context lasts.

    Within the context, `model.generate(...)` and `model(...)` are called as always and return what they always return
    (`generate` returns the prompt and the answer); `model(...)` returns logits of the shorter sequence, each batch
    entry padded on the left. With retention 1.0 the model runs unchanged. A cache that was filled within the context
    must be used within it.

    Several threads may call the model; each gets the answers that it would get alone. A call that still runs in another
    thread when the context is left ends as it began, and only then can the model be attached again; calls that begin
    later are calls of the stock model. `get_video_features` called by the user is the stock method, and features that a
    call gets instead of pixels are not pruned, which the report says. If a model returns the features of videos, those
    of dropped tokens are zero. Copies and pickles of an attached model are plain models.

    Parameters
    ----------
    model: a loaded `transformers` model of a supported architecture, also inside the wrapper of `torch.compile`, PEFT
        or (Distributed)DataParallel. Compile it after attaching.
    pruner: a method before the language model such as `tangovlm.Tango(retention=0.1)`, one inside it such as
        `tangovlm.method("fastv", retention=0.5)`, or a pair such as `tangovlm.method("tango+tango-fastv")`.
    timestamps: seconds of the frames: one tensor ``(T,)`` for all videos of a call, or a list with one for each. None:
        those of the call's `video_metadata`, or else one frame per second, which the report says.
    saliency: "p-attn", "attn" or "mean-query" (see `tangovlm models` for those of a family). None: the `signal` of the
        method, or else the first of the family, which the report says.
    head_weights: safetensors file, checkpoint directory or hub id with SigLIP's pooling head, for a checkpoint
        without it.
    record: keep what pictures need in `Session.videos`; a `Recording` also names other retentions to prune videos at.
    positions: "contiguous" assigns position ids without gaps to the shorter sequence, as the authors' code does for
        LLaVA; "original" keeps the position id of every token in the unpruned prompt. None: the method's own
        (`PreLLMMethod.positions`), but original for models with M-RoPE, which support nothing else. For models without
        M-RoPE, `position_ids` of the caller are replaced.
    chunk_frames: the largest number of frames that the vision encoder processes at a time, which bounds its working
        memory. None: as many as need about 512 MiB on the CPU, or a sixteenth of a CUDA device (of its size, not of its
        free memory, so that results do not depend on that), and all at once if nothing is pruned before the language
        model. Features of several chunks equal those of one up to rounding.
    newlines: tokens that a model inserts after the rows of a video's grid (LLaVA-Video), after the video
        (LLaVA-OneVision) or before each frame (class tokens of Video-LLaVA). "kept": the retention is that of the
        visual tokens, and newlines are kept in addition, as in the authors' code, see `VideoReport.newlines_after`.
        "counted": the retention is that of visual tokens and newlines together, and the largest selection within it is
        kept; if the content decides the number (`PreLLMMethod.adaptive`), at most the largest.
    encode: "all" frames, or only those that "changed": a frame that shows nothing new is not encoded, and its tokens
        have the features of the last frame that was. Methods, counts and times are those of all frames. A
        `tangovlm.tower.changed.Changed` sets how different a frame must be.
    images: prune images too, each as a video of one frame with a budget of its own; without it, all of their tokens
        are kept. For families with `Family.prunes_images` and methods before the language model.
    family: "generic" for a model of no known family that follows the common pattern (`tangovlm models --explain`). The
        model itself is first checked on a small video of noise, and refused if pruned answers differ from those of a
        reference. It provides no saliency, so that methods that need one are refused.

    Raises
    ------
    ModelError: an unsupported architecture, a model that is already attached, no weights for the saliency, a signal
        that the family does not provide, or a release of transformers that is not tested and fails the family's checks
        (`selfcheck.release`).
    MethodError: `pruner` is not a method.
    InputError: unknown positions, newlines, encode or saliency, chunk_frames below 1, NaN features, timestamps that do
        not fit, labels together with pruning, a prompt whose placeholders do not match the features of its videos or
        that exceeds the model's context (also without pruning; before its videos are encoded, unless their content
        decides whether it does), a budget with newlines that holds no token, a device that is out of memory while
        encoding or pruning, `encode` for a family that encodes whole videos only.

    Examples
    --------
    >>> import tangovlm, torch
    >>> llm = tangovlm.load()
    >>> frames = torch.zeros(8, 3, 64, 64, dtype=torch.uint8)
    >>> inputs = llm.processor(f"{llm.processor.video_token} What happens?", frames, timestamps=torch.arange(8))
    >>> with tangovlm.attach(llm.model, tangovlm.Tango(retention=0.1), timestamps=torch.arange(8)) as session:
    ...     output = llm.model.generate(**inputs, max_new_tokens=1)
    >>> session.report.tokens_before, session.report.tokens_after
    (512, 51)

    Inside the language model, from its second layer on:

    >>> with tangovlm.attach(llm.model, tangovlm.method("fastv", layer=1, keep_ratio=0.25)) as session:
    ...     output = llm.model.generate(**inputs, max_new_tokens=1)
    >>> session.report.videos[0].tokens_per_layer[:3]
    (512, 128, 128)
    """
    model = unwrap(model)
    if family not in (None, Generic.name):
        raise InputError(
            f"family is {family!r}: leave it out, or choose {Generic.name!r} for a model of no known family"
        )
    bound: Family
    if family is None:
        bound = family_for(model)(model, saliency=saliency, head_weights=head_weights)
    else:
        bound = _generic(model, saliency, head_weights)
    options: dict[str, Any] = {
        "positions": positions,
        "chunk_frames": chunk_frames,
        "newlines": newlines,
        "encode": encode,
        "images": images,
    }
    with attach_family(bound, pruner, timestamps=timestamps, record=record, **options) as session:
        yield session


def _generic(model: Any, saliency: str | None, head_weights: str | Path | None) -> Generic:
    """The family of a model that no other supports, after its check."""
    if (known := find_family(model)) is not None:
        raise InputError(f"{type(model).__name__} is supported by the family {known.name}: leave family='generic' out")
    if saliency is not None or head_weights is not None:
        raise InputError("a model of no known family provides no saliency: leave saliency and head_weights out")
    bound = Generic.of(model)
    check_generic(bound, attach_family)
    return bound


def _of_images(family: Family, planned: Plan, images: object) -> Family | None:
    """The family for images, if these are to be pruned."""
    if not isinstance(images, bool):
        raise InputError(f"images is {images!r}: give True to prune images as well as videos, or False")
    if not images:
        return None
    if planned.inside is not None:
        raise InputError("methods inside the language model prune videos only: leave images=True out")
    if not family.prunes_images:
        raise InputError(f"images of the family {family.name} cannot be pruned: leave images=True out")
    return family.of_images()


@contextmanager
def attach_family(
    family: Family,
    pruner: Method,
    *,
    timestamps: Any = None,
    record: bool | Recording = False,
    positions: str | None = None,
    chunk_frames: int | None = None,
    newlines: str = "kept",
    encode: str | Changed = "all",
    images: bool = False,
    in_turn: bool = False,
    memo: Memo | None = None,
) -> Iterator[Session]:
    """`attach` for a model that is already bound to its family, which then keeps the head weights it has read.

    Parameters
    ----------
    in_turn: if another thread has attached the model with `in_turn` too, wait until its context is left.
    memo: stores the features of the last call's videos, so that the next call with the same pixels does not encode
        them.
    """
    check_method(pruner)
    check_chunk_frames(chunk_frames)
    layers: Any = family.decoder.layers
    planned = plan(pruner, len(layers))
    check_newlines(newlines, planned.before, planned.inside)
    positions = family.resolve_positions(positions, getattr(planned.before, "positions", "contiguous"))
    session = Session(
        family,
        pruner,
        planned,
        timestamps=timestamps,
        record=record,
        positions=positions,
        chunk_frames=chunk_frames,
        newlines=newlines,
        changed=resolve(encode),
        images=_of_images(family, planned, images),
        in_turn=in_turn,
        memo=memo,
    )
    parts = CallParts.of(session)
    family.signals.check(pruner.name, session.needs, session.saliency)
    family.signals.prepare(session.needs, session.saliency)
    if not session.identity:
        check_release(family.model, session.plan.inside, attach)
    undo = installed(session, parts)
    try:
        yield session
    finally:
        session.close(undo)


def check_method(pruner: object) -> None:
    """Raise `MethodError` unless it is a method that can be attached."""
    if (
        isinstance(pruner, type)
        or not (callable(pruner) or isinstance(pruner, Pair))
        or not hasattr(pruner, "retention")
    ):
        raise MethodError(f"attach needs a method such as tangovlm.Tango(retention=0.1), not {pruner!r}")
