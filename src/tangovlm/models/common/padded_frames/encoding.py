"""Padded frames, encoded some at a time."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ....errors import InputError
from .. import chunks
from ..encoding import ChunkedEncoding, encoded_frames
from ..layout import Grid
from ..transformers_compat import Arg, with_pooler_output


class PaddedFrameEncoding(ChunkedEncoding):
    """Frames do not attend to each other; those of a chunk are encoded as a video of their own."""

    family: Any

    def frame_bytes(self, grids: Sequence[Grid]) -> int:
        """See `ChunkedEncoding.frame_bytes`: queries, keys, values and their rotation, or the MLP of a layer."""
        vision = self.model.config.vision_config
        patches = max(grid.height * grid.width for grid in grids) * self.family.pool**2
        width = max(8 * vision.hidden_size, 2 * vision.hidden_size + 3 * vision.intermediate_size)
        return int(patches * width * self.family.encoder.dtype.itemsize)

    def encode_chunks(
        self, original: Callable[..., Any], bounds: Sequence[tuple[int, int]], *args: Any, **kwargs: Any
    ) -> Any:
        """See `ChunkedEncoding.encode_chunks`."""
        names = self.family.input_names
        named = dict(zip(names, args, strict=False)) | kwargs
        sizes = [grid.tokens for grid in self.family.layout.grids(**named)]
        pixels, positions = named.pop(names[0]), named.pop(names[1])
        counted, of_images = named.pop(Arg.FRAME_COUNTS, None) is not None, self.family.is_of_images
        if not counted and not of_images:
            pixels, positions = pixels.flatten(0, 1), positions.flatten(0, 1)

        def encode(start: int, stop: int) -> Any:
            part = pixels[start:stop], positions[start:stop]
            if of_images:
                return with_pooler_output(original(*part, **named))
            if counted:
                return original(*part, torch.tensor([stop - start]), **named)
            return with_pooler_output(original(*(each[None] for each in part), **named))

        kind, joined, pooled = chunks.collect(encode, bounds, named)
        return kind(**joined, pooler_output=torch.split(torch.cat([each for part in pooled for each in part]), sizes))

    def colors(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        """See `ChunkedEncoding.colors`: a cell is a patch, whose pixels have their colours last."""
        pixels = args[0] if args else kwargs[Arg.VIDEO_PIXELS]
        means = pixels.unflatten(-1, (-1, 3)).mean(dim=-2, dtype=torch.float32) * 255
        return list(means.flatten(0, -3).flatten(1))

    def of_frames(self, chosen: Tensor, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """See `ChunkedEncoding.of_frames`."""
        named = dict(zip(self.family.input_names, args, strict=False)) | kwargs
        counts = [grid.frames for grid in self.family.layout.grids(**named)]
        owners = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        encoded = torch.bincount(owners[chosen], minlength=len(counts))
        for name in (Arg.VIDEO_PIXELS, Arg.VIDEO_POSITIONS):
            frames = named[name].flatten(0, -3)
            named[name] = frames[chosen.to(frames.device)]
        if named.get(Arg.FRAME_COUNTS) is not None:
            named[Arg.FRAME_COUNTS] = encoded
        elif len(set(encoded.tolist())) == 1:
            for name in (Arg.VIDEO_PIXELS, Arg.VIDEO_POSITIONS):
                named[name] = named[name].unflatten(0, (len(counts), -1))
        else:
            raise InputError(
                "videos with other numbers of changed frames cannot be encoded together in this release of "
                "transformers: make a call for each, or leave encode='changed' out"
            )
        return (), named

    def spread(self, output: Any, rows: Tensor, *args: Any, **kwargs: Any) -> Any:
        """See `ChunkedEncoding.spread`."""
        grids = self.family.layout.grids(*args, **kwargs)
        tokens = [grid.height * grid.width for grid in grids for _ in range(grid.frames)]
        made = with_pooler_output(output)
        features = torch.cat([part.flatten(0, -2) for part in made.pooler_output])
        frames = torch.split(features, [tokens[frame] for frame in encoded_frames(rows).tolist()])
        whole = torch.cat([frames[row] for row in rows.tolist()])
        return type(made)(pooler_output=torch.split(whole, [grid.tokens for grid in grids]))
