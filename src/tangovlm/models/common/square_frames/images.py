"""Images in tiles (anyres), as LLaVA-OneVision packs them: a picture of the whole, then the rows of all tiles together.

An image of a prompt with several is one tile. Stock code removes padding from the rows and shrinks them, and writes a
newline after each of them, or after a lone tile. Each picture and each set of rows is pruned by itself.

Shape letters: n tiles of an image, P patches of a tile, C channels of a map.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import chunks
from ..layout import Clip, FeatureLayout, Grid, Prompt
from ..transformers_compat import Arg, pop_value
from .encoding import VideoBatchEncoding


class Whole(Grid):
    """The only tile of an image, with a newline after it."""


class Rows(Grid):
    """The rows of all tiles of an image but the first, each with a newline.

    Attributes
    ----------
    tiles: how many.
    size: height and width of the image, ``(1, 2)`` int64.
    aspect: how stock code chose them, such as "anyres_max_9".
    """

    tiles: int
    size: Tensor
    aspect: str


class PackedImages(FeatureLayout):
    """Pixels are ``(images, n, 3, height, width)``, padded, or those of all tiles ``(tiles, 3, height, width)``."""

    @property
    def placeholder(self) -> int:
        """See `FeatureLayout.placeholder`."""
        config = self.model.config
        return int(getattr(config, "image_token_index", None) or config.image_token_id)

    def grids(self, *args: Any, **kwargs: Any) -> list[Grid]:
        """See `FeatureLayout.grids`."""
        return [clip.grid for clip in self.clips(Prompt(), *args, **kwargs)]

    def clips(self, _prompt: Prompt, *args: Any, **kwargs: Any) -> list[Clip]:
        """See `FeatureLayout.clips`."""
        from transformers.models.llava_onevision.modeling_llava_onevision import image_size_to_num_patches

        named, config = dict(zip((Arg.PIXELS, Arg.IMAGE_SIZES), args, strict=False)) | kwargs, self.model.config
        sizes, counts = named[Arg.IMAGE_SIZES], named.get(Arg.IMAGE_COUNTS)
        divided = [True] * len(sizes) if counts is None else [int(n) == 1 for n in counts for _ in range(int(n))]
        aspect = str(named.get(Arg.ASPECT_RATIO) or config.vision_aspect_ratio)
        clips, start, side = list[Clip](), 0, self.family.side
        for size, is_divided in zip(sizes, divided, strict=True):
            count = 1
            if is_divided:
                count = image_size_to_num_patches(size, config.image_grid_pinpoints, config.vision_config.image_size)
            if count == 1:
                clips.append(Clip(Whole(1, side, side), start))
            else:
                clips.append(Clip(Grid(1, side, side), start))
                clips.append(Clip(self._rows(int(count) - 1, size[None], aspect), start + 1))
            start += int(count)
        return clips

    def _rows(self, tiles: int, size: Tensor, aspect: str) -> Rows:
        """The grid of the rows, measured by packing a map in which only newlines are marked."""
        patches = self.family.side**2
        marks = torch.zeros(1 + tiles, patches, 1)
        packed, _ = self.family.encoder.pack_image_features([marks], size, torch.ones(1), aspect)
        rows = packed[0][patches:]
        height = int(rows.sum())
        grid = Rows(1, height, len(rows) // height - 1)
        grid.tiles, grid.size, grid.aspect = tiles, size, aspect
        return grid

    def features(self, output: Any, clips: Sequence[Clip]) -> list[Tensor]:
        """See `FeatureLayout.features`; stock code returns one tensor for each image."""
        features = torch.cat(list(output.pooler_output))
        return list(torch.split(features, [self.feature_count(clip.grid) for clip in clips]))

    def replace_video_features(self, output: Any, _clips: Sequence[Clip], features: Sequence[Tensor]) -> None:
        """See `FeatureLayout.replace_video_features`."""
        old = output.pooler_output
        output.pooler_output = type(old)(torch.split(torch.cat(list(features)), [len(image) for image in old]))

    def feature_count(self, grid: Grid) -> int:
        """See `FeatureLayout.feature_count`."""
        return grid.tokens + (grid.height if isinstance(grid, Rows) else int(isinstance(grid, Whole)))

    def grid_indices(self, grid: Grid) -> slice | Tensor:
        """See `FeatureLayout.grid_indices`."""
        if not isinstance(grid, Rows):
            return slice(0, grid.tokens)
        return torch.arange(self.feature_count(grid)).view(grid.height, -1)[:, :-1].flatten()


class AllTiles(VideoBatchEncoding):
    """All tiles of a call at once."""

    def encode(self, original: Callable[..., Any], chunk_frames: int | None, *args: Any, **kwargs: Any) -> Any:
        """See `ChunkedEncoding.encode`."""
        del chunk_frames
        pixels = args[0] if args else pop_value(dict(kwargs), Arg.PIXELS)
        tiles = pixels.shape[:-3].numel()
        with chunks.guarded(tiles, self.frame_bytes([]), self.family.device):
            return original(*args, **kwargs)


def packed(encoder: Any, maps: Tensor, grid: Rows) -> Tensor:
    """Maps of tiles ``(n, side, side, C)`` as one of the rows ``(1, H, W, C)``.

    Parameters
    ----------
    encoder: the stock model without its head.
    """
    flat = maps.flatten(1, 2).float()
    with_whole = torch.cat([torch.zeros_like(flat[:1]), flat])
    found, _ = encoder.pack_image_features([with_whole], grid.size, flat.new_zeros(flat.shape[-1]), grid.aspect)
    return torch.as_tensor(found[0][flat.shape[1] :].view(*grid[:2], grid.width + 1, -1)[:, :, :-1])
