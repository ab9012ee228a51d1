"""VideoLLaMA3: a SigLIP tower with rotary positions, bilinear pooling, a projector, and times as text before frames."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..inputs.frame_size import SizeRule
from ..inputs.pixels import PixelSpec
from ..registry import register_family
from .common.layout import Clip, Found, Grid, Prompt
from .common.patch_sequence import PatchSequenceFamily
from .common.prompt_format import VideoInput
from .common.taps import Tap, before
from .common.transformers_compat import Arg, pooled

COMPRESSION = (
    "the checkpoint's own processor drops tokens whose pixels hardly change between frames (use_token_compression): "
    "here only the method drops tokens"
)
_NAMES = (Arg.VIDEO_PIXELS, Arg.VIDEO_GRIDS, Arg.VIDEO_MERGE_SIZES)


@register_family("VideoLlama3ForConditionalGeneration")
class VideoLlama3(PatchSequenceFamily):
    """`VideoLlama3ForConditionalGeneration`.

    The stock processor leaves out tokens whose pixels hardly differ from those of the frame before
    (``video_compression_mask``), and writes placeholders for the others only. A method sees all tokens, as it needs
    whole grids; what it keeps and the mask leaves out does not come back. The report counts what is left of both. Where
    a mask leaves anything out, stock models that encode before they copy prompts (5.23) find no copies of a video for
    several beams or answers.
    """

    name = "videollama3"
    # Those that the stock classes load, of the models before their last training, which was on videos. DAMO-NLP-SG's
    # own (VideoLLaMA3-2B, -7B) come with code of theirs, which is not run, under another architecture.
    checkpoints = ("lkhl/VideoLLaMA3-2B-Image-HF", "lkhl/VideoLLaMA3-7B-Image-HF")
    default_frames = 32
    pixel_spec = PixelSpec(size=(0, 0), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    size_rule = SizeRule(128 * 28 * 28, 768 * 28 * 28, of="shared", old_names=True)
    mask_input = Arg.VIDEO_MASK

    @property
    def tower(self) -> Any:
        """See `PatchSequenceFamily.tower`."""
        return self.encoder.vision_model

    @property
    def attention(self) -> Any:
        """See `PatchSequenceFamily.attention`."""
        return self.tower.encoder.layers[-1].self_attn

    @property
    def projections(self) -> tuple[nn.Module, ...]:
        """See `PatchSequenceFamily.projections`."""
        return self.attention.q_proj, self.attention.k_proj

    @property
    def projected(self) -> nn.Module:
        """See `PatchSequenceFamily.projected`."""
        projector: nn.Module = self.encoder.projector
        return projector

    @property
    def merge(self) -> int:
        """See `PatchSequenceFamily.merge`: that of the stock video processor; the configuration has none."""
        return 2

    @property
    def frames_per_step(self) -> int:
        """See `Family.frames_per_step`."""
        return 1

    def grids(self, *args: Any, **kwargs: Any) -> list[Grid]:
        """See `Family.grids`."""
        named = dict(zip(_NAMES, args, strict=False)) | kwargs
        thw, given = named[Arg.VIDEO_GRIDS].tolist(), named.get(Arg.VIDEO_MERGE_SIZES)
        sides = [self.merge] * len(thw) if given is None else given.tolist()
        return [Grid(t, height // side, width // side) for (t, height, width), side in zip(thw, sides, strict=True)]

    def clips(self, _prompt: Prompt, *args: Any, **kwargs: Any) -> list[Clip]:
        """See `Family.clips`.

        Raises
        ------
        InputError: a mask of another length.
        """
        clips, mask = super().clips(_prompt, *args, **kwargs), _prompt.forwarded_mask
        if mask is None or bool(mask.all()):
            return clips
        sizes = [self.feature_count(clip.grid) for clip in clips]
        if mask.numel() != sum(sizes):
            raise InputError(
                f"{self.mask_input} has {mask.numel()} entries, but the videos {sum(sizes)} tokens: give what the "
                "video processor returned with the pixels"
            )
        note = f"{self.mask_input} leaves out tokens, among them some that the method keeps"
        parts = torch.split(mask, sizes)
        return [clip._replace(forwarded_mask=part, notes=(note,)) for clip, part in zip(clips, parts, strict=True)]

    def encode_chunks(
        self, original: Callable[..., Any], bounds: Sequence[tuple[int, int]], *args: Any, **kwargs: Any
    ) -> Any:
        """See `Family.encode_chunks`."""
        named = dict(zip(_NAMES, args, strict=False)) | kwargs
        return super().encode_chunks(lambda *part, **options: pooled(original(*part, **options)), bounds, **named)

    def options_of(self, videos: list[int], options: dict[str, Any]) -> dict[str, Any]:
        """See `PatchSequenceFamily.options_of`."""
        return options | {Arg.VIDEO_MERGE_SIZES: options[Arg.VIDEO_MERGE_SIZES][videos]}

    def listen(self, found: Found, needs: frozenset[str], kind: str) -> list[Tap]:
        """See `Family.listen`."""
        taps = super().listen(found, needs, kind)
        if needs & {"saliency", "keys", "frame_features"}:
            taps.append(before(self.tower, self._check_merge))
        return taps

    def _check_merge(self, _module: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        sizes = kwargs[Arg.MERGE_SIZES].tolist()
        if set(sizes) != {self.merge}:
            raise InputError(
                f"video_merge_sizes are {sizes}: this method needs {self.merge}, which is the video processor's default"
            )

    def notes(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """See `PromptFormat.notes`: all tokens of the video are written, for the method to choose from."""
        return () if config.get("use_token_compression") is False else (COMPRESSION,)

    def render_video(self, tokenizer: Any, video: VideoInput) -> str:
        """See `PromptFormat.render_video`: each frame has its time in front, and all of its tokens."""
        grid = self.packed(video.pixels)[2]
        frame = self.video_token(tokenizer) * (grid.height * grid.width)
        return ",".join(f"Time {time:.1f}s:{frame}" for time in video.times.tolist())

    def media_kwargs(self, video: VideoInput) -> dict[str, Tensor]:
        """See `PromptFormat.media_kwargs`."""
        return super().media_kwargs(video) | {Arg.VIDEO_MERGE_SIZES: torch.tensor([self.merge])}
