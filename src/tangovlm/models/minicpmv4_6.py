"""MiniCPM-V 4.6: frames of about the same area, patches merged twice, a recurrent text model (that of Qwen3.5).

Shape letters: P side of a patch in pixels, S patches of a call.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import InputError, ModelError
from ..inputs.frame_size import resizes
from ..inputs.pixels import PixelSpec, flag, prepare_pixels, whole
from ..registry import register_family
from .common.encoding import ChunkedEncoding
from .common.family import Family
from .common.layout import Clip, FeatureLayout, Grid, Prompt
from .common.part import Part
from .common.patch_signals import RasterPatchSignals
from .common.prompt_format import PromptFormat, VideoInput
from .common.tile_runs import Picture, find_pictures
from .common.transformers_compat import Arg

_NAMES = (Arg.VIDEO_PIXELS, Arg.VIDEO_SIZES, Arg.DOWNSAMPLING)
_STD = 0.5
NO_SLICES = (
    "the checkpoint's own processor divides large frames into slices by default: here frames are whole, as with its "
    "max_slice_nums=1"
)


class MarkedFrames(PromptFormat):
    """Frames as in ``<image>...</image><image>...</image>``, none of them divided into slices.

    Before a video is its number in the prompt, unless the config disables it (`use_image_id`).
    """

    family: "MiniCPMV46"
    numbered: ClassVar[bool] = True
    """Whether videos have numbers by default."""

    def notes(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """See `PromptFormat.notes`."""
        divides = config.get("slice_mode") is not False and config.get("max_slice_nums", 9) != 1
        return (NO_SLICES,) if divides and flag(config, "do_resize") else ()

    def frame_size(
        self, config: Mapping[str, Any], height: int, width: int, _frames: int | None = None
    ) -> tuple[int, int]:
        """See `PromptFormat.frame_size`: whole tokens, about the aspect ratio, about the area of the resolution."""
        unit = self.family.token_side
        if not resizes(config, height, width, unit):
            return height, width
        resolution = config.get("scale_resolution")
        side = 448 if resolution is None else whole("scale_resolution", resolution)
        # In the order of operations of the stock processor, as the last bit may decide about a token.
        ratio = width / height
        high = int(side / math.sqrt(ratio))
        return max(round(high / unit) * unit, unit), max(round(int(high * ratio) / unit) * unit, unit)

    def pixels(self, frames: Tensor, config: Mapping[str, Any], *, resized: bool = False) -> Tensor:
        """See `PromptFormat.pixels`: ``(1, T, 3, height, width)`` float32; `media_kwargs` divides them into patches."""
        height, width = frames.shape[-2:]
        size = (height, width) if resized else self.frame_size(config, height, width)
        default = PixelSpec(size, (_STD,) * 3, (_STD,) * 3)
        if config.get("stack_frames", 1) not in (None, 0, 1):
            raise ModelError(
                f"the preprocessor config has stack_frames {config['stack_frames']}: only 1, frames that are not "
                "composed of several, is supported"
            )
        return prepare_pixels(frames, PixelSpec.from_config(config, default, size))[None]

    def reserved(self, tokenizer: Any) -> tuple[str, ...]:
        """See `PromptFormat.reserved`."""
        image = str(tokenizer.convert_ids_to_tokens(self.model.config.image_token_id))
        return (image, *self._marks(tokenizer))

    def _marks(self, tokenizer: Any) -> tuple[str, str, str, str]:
        names = ("image_start_token", "image_end_token", "image_id_start_token", "image_id_end_token")
        usual = ("<image>", "</image>", "<image_id>", "</image_id>")
        start, end, before, after = (
            str(getattr(tokenizer, name, None) or mark) for name, mark in zip(names, usual, strict=True)
        )
        return start, end, before, after

    def render_video(self, tokenizer: Any, video: VideoInput) -> str:
        """See `PromptFormat.render_video`."""
        start, end, before, after = self._marks(tokenizer)
        tokens = math.prod(side // self.family.token_side for side in video.pixels.shape[-2:])
        frames = (start + self.video_token(tokenizer) * tokens + end) * video.frames
        numbered = self.numbered and self.family.config.get("use_image_id") is not False
        return f"{before}{video.number}{after}{frames}" if numbered else frames

    def media_kwargs(self, video: VideoInput) -> dict[str, Tensor]:
        """See `PromptFormat.media_kwargs`: patches ``(1, 3, P, S * P)`` and grids in patches ``(T, 2)`` int32."""
        side, frames = self.family.patch_size, video.pixels[0]
        rows, columns = (length // side for length in frames.shape[-2:])
        patches = functional.unfold(frames, (side, side), stride=(side, side)).view(len(frames), 3, side, side, -1)
        # (frame, colour, row, column, patch) to (colour, row; frame, patch, column)
        packed = patches.permute(1, 2, 0, 4, 3).flatten(2)[None]
        sizes = torch.tensor([[rows, columns]] * len(frames), dtype=torch.int32, device=packed.device)
        return {Arg.VIDEO_PIXELS: packed, Arg.VIDEO_SIZES: sizes}

    def collate(self, videos: Sequence[Sequence[Mapping[str, Tensor]]]) -> dict[str, Tensor]:
        """See `PromptFormat.collate`: the patches of all videos are one sequence."""
        flat = [video for prompt in videos for video in prompt]
        if not flat:
            return {}
        return {
            Arg.VIDEO_PIXELS: torch.cat([video[Arg.VIDEO_PIXELS] for video in flat], dim=-1),
            Arg.VIDEO_SIZES: torch.cat([video[Arg.VIDEO_SIZES] for video in flat]),
        }

    def token_types(self, ids: Tensor) -> dict[str, Tensor]:
        """See `PromptFormat.token_types`: 2 for a video; models with M-RoPE need it."""
        kinds = 2 * (ids == self.family.layout.placeholder).int()
        return {Arg.TOKEN_TYPES: kinds} if self.family.keeps_positions else {}


class FrameRuns(FeatureLayout):
    """Every frame of a call has a grid of its own, ``target_sizes_videos (F, 2)`` in patches.

    The frames of a video are runs of placeholders with nothing but the marks of frames between them.
    """

    family: "MiniCPMV46"

    def grids(self, *args: Any, **kwargs: Any) -> list[Grid]:
        """See `FeatureLayout.grids`: one for each frame."""
        named = dict(zip(_NAMES, args, strict=False)) | kwargs
        side = self.family.merged(named.get(Arg.DOWNSAMPLING))
        return [Grid(1, height // side, width // side) for height, width in named[Arg.VIDEO_SIZES].tolist()]

    def clips(self, _prompt: Prompt, *args: Any, **kwargs: Any) -> list[Clip]:
        """See `FeatureLayout.clips`.

        Raises
        ------
        InputError: the prompt has other frames, or slices of frames.
        """
        grids, frames = self.grids(*args, **kwargs), _prompt.frames or ()
        runs: Sequence[Picture | None] = [None] * len(grids)
        if _prompt.input_ids is not None:
            runs = self._runs(_prompt.input_ids, grids, _prompt.continues)
        neighbours = enumerate(pairwise(runs), start=1)
        # First what refuses slices, whose grid mostly differs from that of their frame.
        starts = {place for place, pair in neighbours if not self._adjoin(*pair) or grids[place - 1] != grids[place]}
        if sum(frames) == len(grids):
            # Times tell videos apart that have no text between them.
            starts |= {sum(frames[:number]) for number in range(1, len(frames))}
        bounds = pairwise(sorted({0, *starts, len(grids)}))
        return [Clip(grids[start]._replace(frames=stop - start), start) for start, stop in bounds]

    def _runs(self, input_ids: Tensor, grids: Sequence[Grid], continues: bool) -> list[Picture]:
        """The runs of placeholders of the frames that a call encodes."""
        runs = find_pictures(input_ids, self.placeholder, 1)
        if continues and len(input_ids) == 1:
            runs = runs[len(runs) - len(grids) :]
        if [run.length for run in runs] != [grid.tokens for grid in grids]:
            raise InputError(
                f"the prompt has runs of placeholders for {len(runs)} frames, but {len(grids)} are given or their "
                "sizes differ: make both with one call of the processor"
            )
        return runs

    def _adjoin(self, one: Picture | None, other: Picture | None) -> bool:
        """Whether two neighbouring frames belong to one video.

        Raises
        ------
        InputError: the second one is a slice.
        """
        if one is None or other is None:
            return True
        if one.entry != other.entry or len(other.text) != 2:
            return False
        if one.text and one.text[-1] != other.text[-1]:
            raise InputError(
                "frames are divided into slices, which have no common grid: process videos with max_slice_nums=1"
            )
        return True

    def features(self, output: Any, clips: Sequence[Clip]) -> list[Tensor]:
        """See `FeatureLayout.features`; stock code returns one tensor for each frame."""
        frames = output.pooler_output
        return [torch.cat(list(frames[clip.start : clip.start + clip.grid.frames])) for clip in clips]

    def replace_video_features(self, output: Any, _clips: Sequence[Clip], features: Sequence[Tensor]) -> None:
        """See `FeatureLayout.replace_video_features`."""
        old = output.pooler_output
        output.pooler_output = type(old)(torch.split(torch.cat(list(features)), [len(frame) for frame in old]))


class FrameSequenceEncoding(ChunkedEncoding):
    """Frames do not attend to each other; the patches of those in a chunk are contiguous."""

    family: "MiniCPMV46"

    def frame_bytes(self, grids: Sequence[Grid]) -> int:
        """See `ChunkedEncoding.frame_bytes`: the MLP of a layer of the tower."""
        vision = self.model.config.vision_config
        patches = max(grid.tokens for grid in grids) * self.family.merged("16x") ** 2
        return int(
            patches * (2 * vision.hidden_size + 2 * vision.intermediate_size) * self.family.encoder.dtype.itemsize
        )

    def encode_chunks(
        self, original: Callable[..., Any], bounds: Sequence[tuple[int, int]], *args: Any, **kwargs: Any
    ) -> Any:
        """See `ChunkedEncoding.encode_chunks`."""
        kwargs = dict(zip(_NAMES, args, strict=False)) | kwargs
        pixels, sizes = kwargs.pop(Arg.VIDEO_PIXELS), kwargs.pop(Arg.VIDEO_SIZES)
        ends = [0, *(self.family.patch_size * sizes.prod(dim=1).cumsum(dim=0)).tolist()]
        parts = [original(pixels[..., ends[start] : ends[stop]], sizes[start:stop], **kwargs) for start, stop in bounds]
        states = torch.cat([part.last_hidden_state for part in parts], dim=1)
        pooled = [frame for part in parts for frame in part.pooler_output]
        return type(parts[0])(**{Arg.STATES: states}, pooler_output=pooled)

    def colors(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        """See `ChunkedEncoding.colors`: a cell is a patch."""
        named = dict(zip(_NAMES, args, strict=False)) | kwargs
        pixels, sizes = named[Arg.VIDEO_PIXELS][0], named[Arg.VIDEO_SIZES].prod(dim=1).tolist()
        means = pixels.unflatten(-1, (-1, self.family.patch_size)).mean(dim=(1, 3), dtype=torch.float32)
        return [frame.flatten() for frame in (means * _STD * 255).split(sizes, dim=1)]

    def of_frames(self, chosen: Tensor, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """See `ChunkedEncoding.of_frames`."""
        named = dict(zip(_NAMES, args, strict=False)) | kwargs
        pixels, sizes = named[Arg.VIDEO_PIXELS], named[Arg.VIDEO_SIZES]
        frames = pixels.split((self.family.patch_size * sizes.prod(dim=1)).tolist(), dim=-1)
        named[Arg.VIDEO_PIXELS] = torch.cat([frames[frame] for frame in chosen.tolist()], dim=-1)
        named[Arg.VIDEO_SIZES] = sizes[chosen.to(sizes.device)]
        return (), named

    def spread(self, output: Any, rows: Tensor, *_args: Any, **_kwargs: Any) -> Any:
        """See `ChunkedEncoding.spread`."""
        return type(output)(pooler_output=[output.pooler_output[row] for row in rows.tolist()])


@register_family("MiniCPMV4_6ForConditionalGeneration")
class MiniCPMV46(Family):
    """`MiniCPMV4_6ForConditionalGeneration`; see `Qwen35` for its text model.

    Slices of large frames and composed frames (`stack_frames`) are refused.
    """

    name = "minicpm-v-4.6"
    checkpoints: ClassVar[tuple[str, ...]] = ("openbmb/MiniCPM-V-4.6", "openbmb/MiniCPM-V-4.6-Thinking")
    # The stock model cannot take back the tokens that an assistant proposed, and most layers have no attention.
    tested = Family.tested - {"assisted", "pruning inside"}
    default_frames = 32
    prompt = Part(MarkedFrames)
    layout = Part(FrameRuns)
    signals = Part(RasterPatchSignals)
    encoding = Part(FrameSequenceEncoding)

    @property
    def tower(self) -> Any:
        """The vision model."""
        return self.encoder.vision_tower

    @property
    def attention(self) -> Any:
        """The attention module of its last layer."""
        return self.tower.encoder.layers[-1].self_attn

    @property
    def token_module(self) -> Any:
        """The module that returns the tokens of each frame."""
        return self.encoder.merger

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return int(self.model.config.vision_config.patch_size)

    @property
    def merge_size(self) -> int:
        """Side of a token in patches of the last layer."""
        config = self.model.config
        if config.merger_times != 1 or tuple(config.merge_kernel_size) != (2, 2):
            raise ModelError("the config merges patches otherwise than once in squares of 2 x 2: not supported")
        return 2

    def merged(self, downsampling: str | None) -> int:
        """Side of a token in patches of the image, for a `downsample_mode`; None for that of the config."""
        mode = downsampling or self.model.config.downsample_mode
        return self.merge_size * (1 if mode == "4x" else 2)

    @property
    def token_side(self) -> int:
        """Side of a token in pixels."""
        return self.patch_size * self.merged(self.config.get(Arg.DOWNSAMPLING))
