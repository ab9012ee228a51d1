"""Groups of adjacent frames that are fused into one."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from ...tokens import VideoTokens
from .segments import frame_means
from .selection import SelectionBuilder
from .similarity import compute_dtype, normalize

# Elements processed at a time, of features or similarities: 32 MiB in float32 on a CPU.
_CHUNK_ELEMENTS = (1 << 23, 1 << 26)
_FRAMES_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class FrameGroups:
    """Groups of adjacent frames, each of which counts as one frame.

    Parameters
    ----------
    sizes: frames of each group.
    """

    tokens: VideoTokens
    sizes: tuple[int, ...]

    @property
    def first(self) -> list[int]:
        """The first frame of each group."""
        return [0, *accumulate(self.sizes)][:-1]

    @property
    def length(self) -> int:
        """L, tokens of a frame."""
        return self.tokens.height * self.tokens.width

    def chunks(self, width: int) -> Iterator[slice]:
        """Slices of the groups for tensors of ``(g, L, width)`` elements."""
        at_once = _CHUNK_ELEMENTS[self.tokens.features.device.type != "cpu"] // (self.length * width)
        for start in range(0, len(self.sizes), max(1, at_once)):
            yield slice(start, start + max(1, at_once))

    def grid_indices(self) -> Tensor:
        """``(G, L)``: the grid index of each token in the first frame of its group."""
        first = torch.tensor(self.first, device=self.tokens.features.device)
        return first[:, None] * self.length + torch.arange(self.length, device=first.device)

    def assign(self, builder: SelectionBuilder, slots: Tensor) -> None:
        """Record the slot of every token of the video, given that of each position of a group, ``(G, L)``."""
        sizes = torch.tensor(self.sizes, device=slots.device)
        of_frames = slots.repeat_interleave(sizes, dim=0, output_size=self.tokens.frames)
        builder.assign(torch.arange(self.tokens.count, device=slots.device), of_frames.flatten())

    def features(self, chunk: slice) -> Tensor:
        """``(g, L, D)``: the mean of the frames of each group."""
        features, first, sizes = self.tokens.features.flatten(1, 2), self.first[chunk], self.sizes[chunk]
        if sum(sizes) == len(sizes):
            return features[first[0] : first[0] + len(sizes)]
        means = features[torch.tensor(first, device=features.device)]
        for group, (start, size) in enumerate(zip(first, sizes, strict=True)):
            if size > 1:
                frames = features[start : start + size]
                means[group] = (frames.sum(dim=0, dtype=compute_dtype(frames.dtype)) / size).to(means.dtype)
        return means

    def keys(self, chunk: slice) -> Tensor:
        """``(g, L, Dk)``: unit keys of the first frame of each group, of its mean features if there are no keys."""
        if self.tokens.keys is None:
            return normalize(self.features(chunk))
        keys = self.tokens.keys.flatten(1, 2)
        return normalize(keys[torch.tensor(self.first[chunk], device=keys.device)])


def group_frames(tokens: VideoTokens, uniqueness: float, longest: int) -> FrameGroups:
    """Fuse each frame whose mean token is near that of the group's first frame, up to ``longest`` frames."""
    unit = normalize(frame_means(tokens))
    frames = len(unit)
    later = torch.arange(frames, device=unit.device)
    ends = []
    for start in range(0, frames, _FRAMES_AT_ONCE):
        far = 1 - unit[start : start + _FRAMES_AT_ONCE] @ unit.T > uniqueness
        far &= later > later[start : start + _FRAMES_AT_ONCE, None]
        ends.append(torch.where(far, later, frames).amin(dim=1))
    first_far: list[int] = torch.cat(ends).tolist()
    sizes: list[int] = []
    frame = 0
    while frame < frames:
        sizes.append(min(first_far[frame] - frame, longest))
        frame += sizes[-1]
    return FrameGroups(tokens, tuple(sizes))
