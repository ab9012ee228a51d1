"""Models that encode frames of videos and tiles of images alike, in one sequence, with one placeholder for both."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...errors import InputError
from . import tile_runs
from .family import Family
from .layer_attention import LayerSignals
from .layout import TEXT, Clip, FeatureLayout, Grid, Prompt
from .prompt_format import PromptFormat, VideoInput
from .saliency import pool_means
from .tile_runs import FrameText, Picture
from .transformers_compat import Arg

VIDEO_GUESSED = (
    "neither timestamps nor video_metadata tell frames from images: {frames} pictures with like text between them are "
    "taken for a video"
)
NO_VIDEO_FOUND = (
    "no picture is taken for a frame of a video, so nothing is pruned: for frames give timestamps= or video_metadata"
)


class ImageTileLayout(FeatureLayout):
    """Frames come out of `get_image_features` among the tiles of images, which are never pruned.

    See `tile_runs` for how frames are distinguished from images.
    """

    family: "ImageTileFamily"

    @property
    def placeholder(self) -> int:
        """See `FeatureLayout.placeholder`; images have the same."""
        return int(self.model.config.image_token_id)

    def grids(self, *args: Any, **kwargs: Any) -> list[Grid]:
        """See `FeatureLayout.grids`: one for all tiles."""
        return [self._grid(sum(self.tiles(*args, **kwargs)))]

    @abstractmethod
    def tiles(self, *args: Any, **kwargs: Any) -> list[int]:
        """Number of tiles that a call of `get_image_features` encodes: in each entry of the batch, or in all as one."""

    def copies(self, prompts: int, *args: Any, **kwargs: Any) -> int:
        """How often a call of `get_image_features` encodes each prompt's pictures, in adjacent entries of the batch."""
        del prompts, args, kwargs
        return 1

    def check_size(self, pixels: Tensor) -> None:
        """Raise `InputError` unless tiles ``(..., height, width)`` have the size that the model accepts."""
        height, width = self.family.tile_size
        if tuple(pixels.shape[-2:]) != (height, width):
            raise InputError(
                f"pixel_values are {pixels.shape[-2]} x {pixels.shape[-1]}, but a tile of this model is {height} x "
                f"{width}: set the processor's size to that"
            )

    def pictures(self, input_ids: Tensor) -> list[Picture]:
        """The pictures of prompts ``(B, Q)``, see `tile_runs.find_pictures`."""
        return tile_runs.find_pictures(input_ids, self.placeholder, self.family.tile.tokens)

    def clips(self, _prompt: Prompt, *args: Any, **kwargs: Any) -> list[Clip]:
        """See `FeatureLayout.clips`: without a prompt, pictures are frames only if the given times cover all of them.

        Raises
        ------
        InputError: the prompt has another number of pictures, or frames cannot be distinguished from images.
        """
        tiles = self.tiles(*args, **kwargs)
        if _prompt.input_ids is None:
            return self._all_clips(_prompt.frames or (), sum(tiles))
        prompts: list[list[Picture]] = [[] for _ in range(len(_prompt.input_ids))]
        for picture in self.pictures(_prompt.input_ids):
            prompts[picture.entry].append(picture)
        whole = sum(tiles) == sum(picture.tiles for pictures in prompts for picture in pictures)
        copies = 1 if whole and not _prompt.continues else self.copies(len(prompts), *args, **kwargs)
        prompts = tile_runs.encoded_pictures(prompts, tiles[::copies])
        encoded = [picture for pictures in prompts for picture in pictures]
        videos = tile_runs.group_videos(encoded, _prompt.frames, self.family.frame_text)
        clips, start = [], 0
        for entry, pictures in enumerate(prompts):
            own = [video for video in videos if video[0].entry == entry]
            for _ in range(copies):
                clips += [self._clip(video, pictures, start, guessed=_prompt.frames is None) for video in own]
                start += sum(picture.tiles for picture in pictures)
        return clips

    def _all_clips(self, frames: Sequence[int], tiles: int) -> list[Clip]:
        if sum(frames) != tiles:
            return []
        starts = [sum(frames[:number]) for number in range(len(frames))]
        return [Clip(self._grid(count), start) for count, start in zip(frames, starts, strict=True)]

    def _clip(self, video: Sequence[Picture], pictures: Sequence[Picture], start: int, *, guessed: bool) -> Clip:
        """A video of a prompt with these pictures, whose first tile has the index `start` in the call."""
        before = sum(picture.tiles for picture in pictures if picture.start < video[0].start)
        notes = (VIDEO_GUESSED.format(frames=len(video)),) if guessed else ()
        return Clip(self._grid(len(video)), start + before, notes)

    def _grid(self, frames: int) -> Grid:
        return self.family.tile._replace(frames=frames)

    def no_video_note(self, _prompt: Prompt) -> str | None:
        """See `FeatureLayout.no_video_note`: times may be given once for calls with and without a video."""
        return None if _prompt.frames and _prompt.input_ids is not None else NO_VIDEO_FOUND

    def features(self, output: Any, clips: Sequence[Clip]) -> list[Tensor]:
        """See `FeatureLayout.features`."""
        features = _flat(output.pooler_output)
        return [features[self._span(clip)] for clip in clips]

    def replace_video_features(self, output: Any, clips: Sequence[Clip], features: Sequence[Tensor]) -> None:
        """See `FeatureLayout.replace_video_features`: features of images stay as they are."""
        old = output.pooler_output
        new = _flat(old).clone()
        for clip, values in zip(clips, features, strict=True):
            new[self._span(clip)] = values
        output.pooler_output = like(old, new)

    def _span(self, clip: Clip) -> slice:
        first = clip.start * self.family.tile.tokens
        return slice(first, first + clip.grid.tokens)

    def video_numbers(self, input_ids: Tensor, grids: Sequence[Grid]) -> Tensor:
        """See `FeatureLayout.video_numbers`."""
        frames = [grid.frames for grid in grids]
        for copies in (count for count in range(1, len(input_ids) + 1) if len(input_ids) % count == 0):
            try:
                videos = tile_runs.group_videos(self.pictures(input_ids[::copies]), frames, self.family.frame_text)
            except InputError:
                continue
            if len(videos) == len(grids):
                return self._numbers(input_ids[::copies], videos).repeat_interleave(copies, dim=0)
        raise InputError("the prompt's placeholders do not fit the videos that were encoded: give the whole prompt")

    def _numbers(self, input_ids: Tensor, videos: Sequence[Sequence[Picture]]) -> Tensor:
        numbers = torch.full(input_ids.shape, TEXT)
        counts = [0] * len(input_ids)
        for video in videos:
            for frame in video:
                numbers[frame.entry, frame.start : frame.start + frame.length] = counts[frame.entry]
            counts[video[0].entry] += 1
        return numbers.to(input_ids.device)


class ImageTileSignals(LayerSignals):
    """Saliency and keys of one layer, averaged over the patches that are folded into one token."""

    family: "ImageTileFamily"

    def pool(self, values: Tensor) -> Tensor:
        """Average values of patches ``(F, side * side, C)`` over those of a token: ``(F, H, W, C)``."""
        return pool_means(values, self.family.side, self.family.factor)


class ImageTilePrompt(PromptFormat):
    """Prompts in which a frame is written as an image with text before it."""

    family: "ImageTileFamily"

    def video_token(self, tokenizer: Any) -> str:
        """See `PromptFormat.video_token`."""
        return getattr(tokenizer, "video_token", None) or "<video>"

    def media_kwargs(self, video: VideoInput) -> dict[str, Tensor]:
        """See `PromptFormat.media_kwargs`."""
        return {Arg.PIXELS: video.pixels}


class ImageTileFamily(Family):
    """A family whose frames come out of `get_image_features`, each as one tile."""

    feature_method = "get_image_features"
    visual_inputs = (Arg.PIXELS,)
    frame_text: ClassVar[FrameText]
    """Text that the stock processor writes between the frames of a video."""

    @property
    @abstractmethod
    def side(self) -> int:
        """Side of a tile in patches."""

    @property
    @abstractmethod
    def factor(self) -> int:
        """Side of a token in patches."""

    @property
    @abstractmethod
    def tile_size(self) -> tuple[int, int]:
        """Height and width of a tile in pixels."""

    @property
    def tile(self) -> Grid:
        """Token grid of a tile."""
        return Grid(1, self.side // self.factor, self.side // self.factor)


def _flat(pooled: Any) -> Tensor:
    """Features of all tiles, ``(R, D)``, from one tensor or one for each entry of the batch."""
    if isinstance(pooled, Tensor):
        return pooled.flatten(0, -2)
    return torch.cat([part.flatten(0, -2) for part in pooled])


def like(pooled: Any, features: Tensor) -> Any:
    """Features ``(R, D)`` in the form of `pooled`: one tensor of its shape, or one for each of its tensors."""
    if isinstance(pooled, Tensor):
        return features.view_as(pooled)
    parts = torch.split(features, [part.shape[:-1].numel() for part in pooled])
    return type(pooled)(part.view_as(old) for part, old in zip(parts, pooled, strict=True))
