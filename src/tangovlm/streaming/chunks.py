"""From the frames of a chunk to the segments that are held of it: encoded once, pruned by the method."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..methods.build import Method
from ..methods.common.selection import keep_all
from ..pipeline.loaded import LoadedModel
from ..session.attach import attach_family
from ..session.encoding.observed import observe_video
from ..tokens import VideoTokens
from ..tower.changed import resolve
from .segment import Segment, segments_of


class ChunkPruner:
    """Encodes frames, and prunes what was encoded of a chunk.

    Parameters
    ----------
    llm: the model.
    method: one before the language model that does not read the question.
    encode: see `tangovlm.attach`.

    Raises
    ------
    TangoError: see `tangovlm.stream`.

    Attributes
    ----------
    plan: the method, resolved for the model.
    encoded_frames: frames that the vision encoder ran on so far.
    notes: of the method and of what it selected, in the order in which they arose.
    rest: ``(R, D)`` features that the model has behind the tokens of a video; None before the first frame.
    """

    def __init__(self, llm: LoadedModel, method: Method, encode: Any = "all") -> None:
        self.llm = llm
        self._changed = resolve(encode)
        # What the method needs of the model is checked, and untested releases are, as in any other call.
        with attach_family(llm.family, method, in_turn=True) as session:
            if session.plan.inside is not None or getattr(method, "reads_question", False):
                raise InputError(
                    f"the method {method.name!r} chooses tokens by the question or inside the model, but those of a "
                    "stream are chosen before there is a question: take one such as tango or milonga"
                )
            self.plan = session.plan
            self._needs, self._kind = session.needs, session.saliency
            self.notes = dict.fromkeys(session.report.notes)
        self.encoded_frames = 0
        self.rest: Tensor | None = None

    def encode(self, frames: Tensor, times: list[float]) -> VideoTokens:
        """The tokens of uint8 frames ``(T, 3, H, W)`` with their signals."""
        family = self.llm.family
        pixels = family.prompt.pixels(frames.to(family.device), self.llm.config)
        watched = {self._kind: (family, self._needs)}
        video = observe_video(family, pixels, watched, changed=self._changed)
        self.encoded_frames += len(frames) if video.clip.encoded is None else video.clip.encoded
        self.rest = family.layout.after_grid(video.features, video.clip.grid)
        return video.tokens(family, self._kind, torch.tensor(times, dtype=torch.float64))

    @torch.no_grad()
    def prune(self, pieces: list[VideoTokens], first_frame: int) -> list[Segment]:
        """The segments that are held of a chunk.

        Parameters
        ----------
        pieces: of consecutive frames.
        first_frame: number of the first of them in the stream.
        """
        tokens = _joined(pieces)
        times = tokens.timestamps
        assert times is not None
        # To the method, the chunk is a video of its own.
        own = replace(tokens, timestamps=times - times[0])
        selection = keep_all(own, (own.frames,)) if self.plan.before is None else self.plan.before(own)
        self.notes |= dict.fromkeys(selection.notes)
        return segments_of(tokens, selection, first_frame, times)


def _joined(pieces: list[VideoTokens]) -> VideoTokens:
    """Consecutive frames of one video."""
    if len(pieces) == 1:
        return pieces[0]
    signals = ("saliency", "timestamps", "frame_features", "keys")
    joined: dict[str, Any] = {
        name: None if getattr(pieces[0], name) is None else _of_all(pieces, name) for name in signals
    }
    return replace(pieces[0], features=_of_all(pieces, "features"), **joined)


def _of_all(pieces: list[VideoTokens], name: str) -> Tensor:
    return torch.cat([getattr(piece, name) for piece in pieces])
