"""Encoding some steps of a sequence of patches: those of a chunk, or those that changed."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import chunks
from ..encoding import ChunkedEncoding, encoded_frames
from ..layout import Grid
from ..transformers_compat import Arg, concatenated, split_like


class PatchSequenceEncoding(ChunkedEncoding):
    """The steps of a video do not attend to each other, so those in a chunk are encoded as a video of their own."""

    def frame_bytes(self, grids: Sequence[Grid]) -> int:
        """See `ChunkedEncoding.frame_bytes`: queries, keys, values and their rotation, or the MLP of a layer."""
        hidden, inner = self.family.widths
        patches_per_frame = max(grid.height * grid.width for grid in grids) * self.family.merge_size**2
        channels = max(8 * hidden, 2 * hidden + 3 * inner)
        return int(patches_per_frame * channels * self.family.encoder.dtype.itemsize)

    def encode_chunks(
        self, original: Callable[..., Any], bounds: Sequence[tuple[int, int]], *args: Any, **kwargs: Any
    ) -> Any:
        """See `ChunkedEncoding.encode_chunks`."""
        names = (self.family.medium.pixels, self.family.medium.grids)
        kwargs = dict(zip(names, args, strict=False)) | kwargs
        pixels, thw = (kwargs.pop(name) for name in names)
        sizes = [grid.tokens for grid in self.family.layout.grids(pixels, thw, **kwargs)]
        steps, patches_per_step = thw[:, 0].tolist(), thw[:, 1:].prod(dim=1).tolist()
        features: list[Tensor] = []
        layers: list[list[Tensor]] = []
        parts, start = [], 0
        for bound in bounds:
            ranges = _step_ranges(steps, *bound)
            videos = [part.video for part in ranges]
            stop = start + sum(part.steps * patches_per_step[part.video] for part in ranges)
            grid = thw[videos].clone()
            grid[:, 0] = torch.tensor([part.steps for part in ranges])
            output = original(pixels[start:stop], grid, **self.options_of(videos, kwargs))
            fields, kind = chunks.fields(output, kwargs), type(output)
            # Free the other fields before the next chunk allocates its own.
            del output
            features += fields.pop("pooler_output")
            deep = fields.pop("deepstack_features", None) or []
            layers.append([concatenated(layer) for layer in deep])
            parts.append(fields)
            start = stop
        joined = {name: chunks.join([part[name] for part in parts]) for name in parts[0]}
        if deep:
            whole = [torch.cat(layer) for layer in zip(*layers, strict=True)]
            joined["deepstack_features"] = [split_like(layer, sizes, deep[0]) for layer in whole]
        return kind(**joined, pooler_output=torch.split(torch.cat(features), sizes))

    def colors(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        """See `ChunkedEncoding.colors`: a cell is a patch; a step has those of all of its frames."""
        pixels, thw, _ = _named(args, kwargs)
        scale = 255 * torch.tensor(self.family.pixel_spec.std, device=pixels.device)[:, None]
        means = pixels.view(len(pixels), 3, self.family.layout.frames_per_step, -1).mean(dim=-1, dtype=torch.float32)
        return [step.flatten() for step in torch.split(means * scale, _patches_of_steps(thw))]

    def of_frames(self, chosen: Tensor, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """See `ChunkedEncoding.of_frames`."""
        pixels, thw, options = _named(args, kwargs)
        parts = torch.split(pixels, _patches_of_steps(thw))
        grid = thw.clone()
        grid[:, 0] = torch.bincount(_videos_of_steps(thw)[chosen], minlength=len(thw))
        return (torch.cat([parts[step] for step in chosen.tolist()]), grid), options

    def spread(self, output: Any, rows: Tensor, *args: Any, **kwargs: Any) -> Any:
        """See `ChunkedEncoding.spread`."""
        thw = _named(args, kwargs)[1]
        grids = self.family.layout.grids(*args, **kwargs)
        tokens = [grids[video].height * grids[video].width for video in _videos_of_steps(thw).tolist()]
        encoded = [tokens[step] for step in encoded_frames(rows).tolist()]

        def of_all(features: Any) -> Tensor:
            parts = torch.split(concatenated(features), encoded)
            return torch.cat([parts[row] for row in rows.tolist()])

        sizes = [grid.tokens for grid in grids]
        whole: dict[str, Any] = {"pooler_output": torch.split(of_all(output.pooler_output), sizes)}
        if deep := getattr(output, "deepstack_features", None):
            whole["deepstack_features"] = [split_like(of_all(layer), sizes, layer) for layer in deep]
        return type(output)(**whole)

    def options_of(self, _videos: list[int], options: dict[str, Any]) -> dict[str, Any]:
        """Other arguments of the stock method for some of the videos, by number (one may occur more than once)."""
        return options


def _named(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Pixels, grids and the other arguments of the stock method."""
    named = dict(zip((Arg.VIDEO_PIXELS, Arg.VIDEO_GRIDS), args, strict=False)) | dict(kwargs)
    return named.pop(Arg.VIDEO_PIXELS), named.pop(Arg.VIDEO_GRIDS), named


def _videos_of_steps(thw: Tensor) -> Tensor:
    """Number of the video of each step."""
    return torch.arange(len(thw)).repeat_interleave(thw[:, 0].cpu())


def _patches_of_steps(thw: Tensor) -> list[int]:
    """Number of patches of each step."""
    counts: list[int] = thw[:, 1:].prod(dim=1).repeat_interleave(thw[:, 0]).tolist()
    return counts


class StepRange(NamedTuple):
    """Steps of one video that are encoded together."""

    video: int
    start: int
    stop: int

    @property
    def steps(self) -> int:
        """How many."""
        return self.stop - self.start


def _step_ranges(steps: Sequence[int], start: int, stop: int) -> list[StepRange]:
    """The steps from `start` to `stop`, counted over all videos, by video.

    >>> [tuple(part) for part in _step_ranges([4, 3], 2, 5)]
    [(0, 2, 4), (1, 0, 1)]
    """
    ranges, first = [], 0
    for video, count in enumerate(steps):
        part = StepRange(video, max(start - first, 0), min(stop - first, count))
        if part.steps > 0:
            ranges.append(part)
        first += count
    return ranges
