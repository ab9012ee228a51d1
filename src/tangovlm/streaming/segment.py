"""The kept tokens of one segment of a stream, and which of them are given up next.

Shape letters: K tokens of a segment, D channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..methods.common.similarity import normalize
from ..tokens import Selection, VideoTokens

_LARGEST = 1024
"""Tokens of a segment that may be joined with another one: the similarities of all pairs are computed."""
_SHARE = 4
"""A segment is reduced by one of so many tokens at a time."""


@dataclass(frozen=True, eq=False)
class Segment:
    """Consecutive frames of a stream that look alike, as the tokens that are held of them.

    Parameters
    ----------
    features: ``(K, D)`` as the language model receives them, in the order of the stream.
    frames: ``(K,)`` int64, the frame of each, counted from the beginning of the stream.
    counts: ``(K,)`` int64, how many input tokens each stands for.
    start, stop: its first frame, and the one after its last.
    start_s, end_s: times of its first and last frame in seconds.
    seen: input tokens of its frames.
    """

    features: Tensor
    frames: Tensor
    counts: Tensor
    start: int
    stop: int
    start_s: float
    end_s: float
    seen: int

    def __len__(self) -> int:
        return len(self.features)

    def joined(self, later: "Segment") -> "Segment":
        """This segment and the one after it as one, with all tokens of both."""
        return Segment(
            features=torch.cat([self.features, later.features]),
            frames=torch.cat([self.frames, later.frames]),
            counts=torch.cat([self.counts, later.counts]),
            start=self.start,
            stop=later.stop,
            start_s=self.start_s,
            end_s=later.end_s,
            seen=self.seen + later.seen,
        )

    @cached_property
    def spare(self) -> "SpareTokens":
        """The tokens that are given up next."""
        return SpareTokens.of(self.features, -(-len(self) // _SHARE) if len(self) > 1 else 0)

    def without(self, number: int) -> "Segment":
        """The segment without the first so many of its spare tokens; those that stand for them keep their features."""
        stays = torch.ones(len(self), dtype=torch.bool)
        counts = self.counts.clone()
        for gone, kept in zip(self.spare.tokens[:number], self.spare.into[:number], strict=True):
            stays[gone] = False
            counts[kept] += counts[gone]
        places = stays.nonzero().flatten()
        features = self.features[places.to(self.features.device)]
        return replace(self, features=features, frames=self.frames[places], counts=counts[places])


class SpareTokens(NamedTuple):
    """Tokens of a segment in the order in which they are given up.

    The next is always the one whose nearest earlier token, among those that stay, is most like it by cosine; of equal
    ones the first. So what repeats goes first, and what is seen once stays longest.

    Parameters
    ----------
    tokens: their places in the segment.
    into: for each, the place of the earlier token that stands for it.
    loss: cosine distance between the two, on average.
    """

    tokens: list[int]
    into: list[int]
    loss: float

    @classmethod
    def of(cls, features: Tensor, number: int) -> "SpareTokens":
        """So many tokens, less than K, of features ``(K, D)``."""
        tokens, into, distance = list[int](), list[int](), 0.0
        if not number:
            return cls(tokens, into, distance)
        unit = normalize(features)
        similarities = (unit @ unit.T).cpu().double().numpy()
        similarities[np.triu_indices(len(similarities))] = -np.inf
        nearest = similarities.argmax(axis=1)
        closeness = similarities[np.arange(len(similarities)), nearest]
        for _ in range(number):
            gone = int(closeness.argmax())
            tokens.append(gone)
            into.append(int(nearest[gone]))
            distance += max(0.0, 1.0 - float(closeness[gone]))
            closeness[gone] = -np.inf
            similarities[:, gone] = -np.inf
            # Tokens whose nearest is gone look for another.
            for orphan in np.flatnonzero((nearest == gone) & (closeness > -np.inf)):
                nearest[orphan] = similarities[orphan].argmax()
                closeness[orphan] = similarities[orphan, nearest[orphan]]
        return cls(tokens, into, distance / number)


def may_join(first: Segment, second: Segment) -> bool:
    """Whether two neighbours are small enough to become one segment."""
    return len(first) + len(second) <= _LARGEST


def same_segments(some: Sequence[Segment], others: Sequence[Segment]) -> bool:
    """Whether two lists have the very same segments."""
    return len(some) == len(others) and all(one is other for one, other in zip(some, others, strict=True))


def segments_of(tokens: VideoTokens, selection: Selection, first_frame: int, times: Tensor) -> list[Segment]:
    """The segments of a selection; frames without tokens of their own belong to the segment after them, or the last.

    Parameters
    ----------
    first_frame: number of the first of its frames in the stream.
    times: ``(T,)`` seconds of the frames in the stream.
    """
    of_frame = tokens.height * tokens.width
    indices, sources = selection.indices.cpu(), selection.sources.flatten().cpu()
    counts = torch.bincount(sources[sources >= 0], minlength=len(indices)).clamp(min=1)
    found, start = list[Segment](), 0
    for stop in accumulate(selection.segments):
        places = ((indices >= start * of_frame) & (indices < stop * of_frame)).nonzero().flatten()
        if not len(places):
            continue
        found.append(
            Segment(
                features=selection.features[places.to(selection.features.device)],
                frames=first_frame + indices[places] // of_frame,
                counts=counts[places],
                start=first_frame + start,
                stop=first_frame + stop,
                start_s=float(times[start]),
                end_s=float(times[stop - 1]),
                seen=(stop - start) * of_frame,
            )
        )
        start = stop
    last, rest = found[-1], tokens.frames - start
    found[-1] = replace(last, stop=last.stop + rest, end_s=float(times[-1]), seen=last.seen + rest * of_frame)
    return found
