"""Videos of one length, encoded some frames at a time."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import chunks
from ..encoding import ChunkedEncoding, cell_colors, with_pixels
from ..layout import Grid
from ..transformers_compat import pixels_name


class EqualVideos(ChunkedEncoding):
    """Pixels are ``(videos, T, 3, height, width)``, with the same T for all videos."""

    @property
    def std(self) -> Sequence[float]:
        """Of the normalisation of the pixels, per colour."""
        std: Sequence[float] = self.family.pixel_spec.std
        return std

    def colors(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        """See `ChunkedEncoding.colors`."""
        pixels = args[0] if args else kwargs[pixels_name(kwargs)]
        return cell_colors(pixels.flatten(0, 1), self.std)

    def of_frames(self, chosen: Tensor, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """See `ChunkedEncoding.of_frames`: one video."""
        name = pixels_name(kwargs)
        pixels = args[0] if args else kwargs[name]
        return with_pixels(pixels.flatten(0, 1)[chosen.to(pixels.device)][None], args, kwargs, name)


class VideoBatchEncoding(EqualVideos):
    """Frames do not attend to each other; those of a chunk are encoded as a video of their own."""

    def frame_bytes(self, _grids: Sequence[Grid]) -> int:
        """See `ChunkedEncoding.frame_bytes`: the MLP of a layer, or projector and pooling if they need more.

        To these it adds the hidden states of all layers, which stock code of some releases collects.
        """
        vision, text = self.model.config.vision_config, self.model.config.text_config
        width = max(2 * vision.hidden_size + 2 * vision.intermediate_size, vision.hidden_size + 3 * text.hidden_size)
        collected = vision.num_hidden_layers * vision.hidden_size
        return int(self.family.side**2 * (width + collected) * self.family.encoder.dtype.itemsize)

    def encode_chunks(
        self, original: Callable[..., Any], bounds: Sequence[tuple[int, int]], *args: Any, **kwargs: Any
    ) -> Any:
        """See `ChunkedEncoding.encode_chunks`."""
        pixels, args = (args[0], args[1:]) if args else (kwargs.pop(pixels_name(kwargs)), ())
        frames = pixels.flatten(0, 1)[None]
        kind, joined, pooled = chunks.collect(
            lambda start, stop: original(frames[:, start:stop], *args, **kwargs), bounds, kwargs
        )
        counts = [(stop - start) * self.family.layout.features_per_frame for start, stop in bounds]
        features = torch.cat([part[0, :count] for part, count in zip(pooled, counts, strict=True)])
        videos = features.view(pixels.shape[0], -1, features.shape[-1])
        # What follows a video, if anything, is the same for all.
        newline = pooled[-1][0, counts[-1] :].expand(pixels.shape[0], -1, -1)
        return kind(**joined, pooler_output=torch.cat([videos, newline], dim=1))

    def spread(self, output: Any, rows: Tensor, *args: Any, **kwargs: Any) -> Any:
        """See `ChunkedEncoding.spread`."""
        pixels, features = args[0] if args else kwargs[pixels_name(kwargs)], output.pooler_output[0]
        count = self.family.layout.features_per_frame
        on_grid = (int(rows[-1]) + 1) * count
        frames = features[:on_grid].unflatten(0, (-1, count))[rows.to(features.device)]
        videos = frames.reshape(pixels.shape[0], -1, features.shape[-1])
        newline = features[None, on_grid:].expand(pixels.shape[0], -1, -1)
        return type(output)(pooler_output=torch.cat([videos, newline], dim=1))
