"""What methods receive of a clip and what they keep of it, as within `tangovlm.attach`, without the language model.

Shape letters: T steps of the token grid, H, W its rows and columns.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor, nn

from tangovlm.errors import InputError
from tangovlm.methods.build import Method
from tangovlm.methods.common.selection import keep_all
from tangovlm.models.common.family import Family
from tangovlm.models.common.signals import ForwardHook
from tangovlm.pipeline.generation import model_inputs
from tangovlm.pipeline.load import VideoLLM
from tangovlm.report.scenes import Scene, scene
from tangovlm.session.attach import attach_family
from tangovlm.session.memo import Memo, UnprunedFeatures
from tangovlm.session.records import VideoRecord
from tangovlm.tokens import Selection, VideoTokens
from tangovlm.video import Frames

# Any question: the encoder does not depend on it.
_QUESTION = "What happens?"


class RecordedClip:
    """One decoded clip and one model, whose encoder runs as rarely as possible.

    Parameters
    ----------
    llm: a loaded model; if it was loaded with a saliency, all methods receive that one.
    name: of the clip, for messages.
    frames: the clip.
    chunk_frames: see `tangovlm.attach`.
    """

    def __init__(self, llm: VideoLLM, name: str, frames: Frames, chunk_frames: int | None = None) -> None:
        self.llm = llm
        self.name = name
        self.frames = frames
        self._chunk_frames = chunk_frames
        self._inputs = model_inputs(llm, frames, _QUESTION)
        self._features = UnprunedFeatures()

    @property
    def notes(self) -> tuple[str, ...]:
        """For the user: how the clip was decoded."""
        return tuple(f"{self.name}: {note}" for note in self.frames.notes)

    def tokens(self, kinds: Iterable[str], hooks: Iterable[ForwardHook] = ()) -> dict[str, VideoTokens]:
        """What methods receive, with each of these kinds of saliency; recorded in one run of the encoder.

        Parameters
        ----------
        kinds: of the saliency.
        hooks: of the caller, for that run.

        Raises
        ------
        ModelError, InputError: see `tangovlm.attach`.
        """
        kinds = list(kinds)
        needs = frozenset({"saliency", "timestamps"})
        for kind in kinds:
            self.llm.family.signals.check(TokenRecorder.name, needs, kind)
            self._features.wanted(kind, needs)
        found = {}
        handles = [hook.register() for hook in hooks]
        try:
            for kind in kinds:
                recorder = TokenRecorder(kind, needs)
                self.record(recorder)
                (found[kind],) = recorder.tokens
        finally:
            for handle in handles:
                handle.remove()
        return found

    def record(self, pruner: Method) -> VideoRecord:
        """What a method keeps, with its notes in the report.

        Raises
        ------
        ModelError, InputError: see `tangovlm.attach`.
        """
        with warnings.catch_warnings():
            # They are notes of the record too.
            warnings.simplefilter("ignore", UserWarning)
            attached = attach_family(
                self.llm.family,
                pruner,
                timestamps=self.frames.prompt_times_s,
                record=True,
                chunk_frames=self._chunk_frames,
                memo=Memo(self._features),
            )
            try:
                with torch.no_grad(), attached as session, stop_before(self.llm.family.decoder):
                    self.llm.family.model(**self._inputs)
            except InputError as error:
                raise InputError(f"{self.name}: {error}") from error
        if not session.videos:
            raise InputError(f"{self.name}: the model recognised no video in its own inputs: choose another model")
        return session.videos[0]

    def record_all(self) -> VideoRecord:
        """All tokens of the clip."""
        return self.record(TokenRecorder(None, frozenset()))

    def scene(self, record: VideoRecord | None = None) -> Scene:
        """The pictures and times of the steps of the grid, and what was kept if a record is given."""
        return scene(self.frames, record)


def record_tokens(
    family: Family,
    inputs: Mapping[str, Any],
    recorder: TokenRecorder,
    *,
    seconds: Tensor | None = None,
    chunk_frames: int | None = None,
) -> list[VideoTokens]:
    """What a method receives of each video of a call; stops before the language model.

    Parameters
    ----------
    inputs: arguments of the model's `generate`.
    recorder: the method.
    seconds, chunk_frames: `timestamps` and `chunk_frames` of `tangovlm.attach`.

    Raises
    ------
    ModelError, InputError: see `tangovlm.attach`.
    """
    attached = attach_family(family, recorder, timestamps=seconds, chunk_frames=chunk_frames)
    with torch.no_grad(), attached, stop_before(family.decoder):
        family.model(**inputs)
    return recorder.tokens


@dataclass(eq=False)
class TokenRecorder:
    """A method that records what it receives and keeps all tokens.

    Parameters
    ----------
    signal: the kind of saliency that it asks for.
    needs: names of signals.
    """

    name: ClassVar[str] = "inspect"
    stage: ClassVar[str] = "pre-llm"
    # Not 1, with which no method is called.
    retention: ClassVar[float] = 0.5

    signal: str | None
    needs: frozenset[str]
    tokens: list[VideoTokens] = field(default_factory=list)

    def __call__(self, tokens: VideoTokens) -> Selection:
        self.tokens.append(tokens)
        return keep_all(tokens, (tokens.frames,))


class _StopForward(Exception):  # noqa: N818 (not an error)
    """Ends a forward pass after the vision encoder."""


@contextmanager
def stop_before(decoder: nn.Module) -> Iterator[None]:
    """Leave the context as soon as the text model is called."""

    def stop(_module: nn.Module, _args: Any) -> NoReturn:
        raise _StopForward

    hook = decoder.register_forward_pre_hook(stop, prepend=True)
    try:
        yield
    except _StopForward:
        pass
    finally:
        hook.remove()
