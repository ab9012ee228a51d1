"""VideoLLaMA3: a SigLIP tower with rotary positions, bilinear pooling, a projector, and times as text before frames."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..inputs.frame_size import SizeRule
from ..inputs.pixels import PixelSpec
from ..registry import register_family
from .common.family import Family
from .common.layout import Clip, Grid, Prompt
from .common.part import Part
from .common.patch_sequence import PatchSequenceFamily, PatchSequenceLayout, TimestampedSteps
from .common.patch_signals import PatchSequenceSignals
from .common.patches.encoding import PatchSequenceEncoding
from .common.patches.medium import IMAGES
from .common.prompt_format import VideoInput
from .common.signals import ForwardHook, SignalParts, on_input
from .common.transformers_compat import Arg, with_pooler_output

COMPRESSION = (
    "the checkpoint's own processor drops tokens whose pixels hardly change between frames (use_token_compression): "
    "here only the method drops tokens"
)


class FramesWithTimes(TimestampedSteps):
    """Frames as in ``Time 0.0s:<image>...,Time 1.0s:<image>...``, each with all of its tokens."""

    separator = ","

    def notes(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """See `PromptFormat.notes`: the prompt has all tokens of the video, for the method to choose from."""
        return () if config.get("use_token_compression") is False else (COMPRESSION,)

    def render_step(self, tokenizer: Any, seconds: float, tokens: int) -> str:
        """See `TimestampedSteps.render_step`."""
        return f"Time {seconds:.1f}s:{self.video_token(tokenizer) * tokens}"

    def media_kwargs(self, video: VideoInput) -> dict[str, Tensor]:
        """See `PromptFormat.media_kwargs`."""
        return super().media_kwargs(video) | {Arg.VIDEO_MERGE_SIZES: torch.tensor([self.family.merge_size])}


class MergedFrames(PatchSequenceLayout):
    """A step is one frame; each video names the side of its tokens in patches, and a mask may leave tokens out."""

    family: "VideoLlama3"

    @property
    def frames_per_step(self) -> int:
        """See `FeatureLayout.frames_per_step`."""
        return 1

    def grids(self, *args: Any, **kwargs: Any) -> list[Grid]:
        """See `FeatureLayout.grids`."""
        _, grids, merge_sizes = self.family.input_names
        named = dict(zip(self.family.input_names, args, strict=False)) | kwargs
        thw, given = named[grids].tolist(), named.get(merge_sizes)
        sides = [self.family.merge_size] * len(thw) if given is None else given.tolist()
        return [Grid(t, height // side, width // side) for (t, height, width), side in zip(thw, sides, strict=True)]

    def clips(self, _prompt: Prompt, *args: Any, **kwargs: Any) -> list[Clip]:
        """See `FeatureLayout.clips`.

        Raises
        ------
        InputError: a mask of another length.
        """
        clips, mask = super().clips(_prompt, *args, **kwargs), _prompt.forwarded_mask
        if self.family.mask_input is None or mask is None or bool(mask.all()):
            return clips
        sizes = [self.feature_count(clip.grid) for clip in clips]
        if mask.numel() != sum(sizes):
            raise InputError(
                f"{self.family.mask_input} has {mask.numel()} entries, but the videos {sum(sizes)} tokens: give what "
                "the video processor returned with the pixels"
            )
        note = f"{self.family.mask_input} leaves out tokens, among them some that the method keeps"
        parts = torch.split(mask, sizes)
        return [clip._replace(forwarded_mask=part, notes=(note,)) for clip, part in zip(clips, parts, strict=True)]


class DefaultMergeSignals(PatchSequenceSignals):
    """Signals of videos, or images, with their default merge size only."""

    family: "VideoLlama3"

    def hooks(self, collected: SignalParts, needs: frozenset[str], kind: str) -> list[ForwardHook]:
        """See `EncoderSignals.hooks`."""
        hooks = super().hooks(collected, needs, kind)
        if needs & {"saliency", "keys", "frame_features"}:
            hooks.append(on_input(self.family.tower, self._check_merge_sizes))
        return hooks

    def _check_merge_sizes(self, _module: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        sizes, default = kwargs[Arg.MERGE_SIZES].tolist(), self.family.merge_size
        if set(sizes) != {default}:
            raise InputError(
                f"{self.family.merge_sizes} are {sizes}: this method needs {default}, which is the processor's default"
            )


class MergedFramesEncoding(PatchSequenceEncoding):
    """The stock method has merge sizes as a third argument."""

    family: "VideoLlama3"

    def encode_chunks(
        self, original: Callable[..., Any], bounds: Sequence[tuple[int, int]], *args: Any, **kwargs: Any
    ) -> Any:
        """See `ChunkedEncoding.encode_chunks`."""
        named = dict(zip(self.family.input_names, args, strict=False)) | kwargs
        return super().encode_chunks(
            lambda *part, **options: with_pooler_output(original(*part, **options)), bounds, **named
        )

    def encode_some(
        self, original: Callable[..., Any], chunk_frames: int | None, rows: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        """See `ChunkedEncoding.encode_some`."""
        named = dict(zip(self.family.input_names, args, strict=False)) | kwargs
        return super().encode_some(
            lambda *part, **options: with_pooler_output(original(*part, **options)), chunk_frames, rows, **named
        )

    def options_of(self, videos: list[int], options: dict[str, Any]) -> dict[str, Any]:
        """See `PatchSequenceEncoding.options_of`."""
        name = self.family.input_names[2]
        return options | {name: options[name][videos]}


@register_family("VideoLlama3ForConditionalGeneration")
class VideoLlama3(PatchSequenceFamily):
    """`VideoLlama3ForConditionalGeneration`.

    The stock processor leaves out tokens whose pixels hardly differ from those of the frame before
    (``video_compression_mask``), and writes placeholders for the others only. A method receives all tokens, as it needs
    complete grids; tokens that it keeps and the mask leaves out are not restored. The report counts what remains after
    both. If a mask leaves anything out, stock models that encode before they copy prompts (5.23) do not copy a video
    for several beams or answers.
    """

    name = "videollama3"
    # Those that the stock classes load, of the models before their last stage of training, which was on videos.
    # DAMO-NLP-SG's own (VideoLLaMA3-2B, -7B) need custom code, which is never run, under another architecture.
    checkpoints = ("lkhl/VideoLLaMA3-2B-Image-HF", "lkhl/VideoLLaMA3-7B-Image-HF")
    default_frames = 32
    pixel_spec = PixelSpec(size=(0, 0), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    size_rule = SizeRule(128 * 28 * 28, 768 * 28 * 28, of="shared", old_names=True)
    mask_input: ClassVar[str | None] = Arg.VIDEO_MASK
    merge_sizes: ClassVar[str] = Arg.VIDEO_MERGE_SIZES
    """The third argument of the `feature_method`."""
    prompt = Part(FramesWithTimes)
    layout = Part(MergedFrames)
    signals = Part(DefaultMergeSignals)
    encoding = Part(MergedFramesEncoding)

    def of_images(self) -> Family:
        """See `Family.of_images`."""
        return VideoLlama3Images(self.model, saliency=self.saliency, head_weights=self.head_weights, config=self.config)

    @property
    def input_names(self) -> tuple[str, str, str]:
        """Arguments of the `feature_method`: pixels, grids and merge sizes."""
        return self.medium.pixels, self.medium.grids, self.merge_sizes

    @property
    def tower(self) -> Any:
        """See `PatchSequenceFamily.tower`."""
        return self.encoder.vision_model

    @property
    def attention(self) -> Any:
        """See `PatchSequenceFamily.attention`."""
        return self.tower.encoder.layers[-1].self_attn

    @property
    def query_key(self) -> tuple[nn.Module, ...]:
        """See `PatchSequenceFamily.query_key`."""
        return self.attention.q_proj, self.attention.k_proj

    @property
    def token_module(self) -> nn.Module:
        """See `PatchSequenceFamily.token_module`."""
        projector: nn.Module = self.encoder.projector
        return projector

    @property
    def merge_size(self) -> int:
        """See `PatchSequenceFamily.merge_size`: that of the stock video processor; the configuration has none."""
        return 2


class VideoLlama3Images(VideoLlama3):
    """The images of a `VideoLlama3`, each of whose patches is a token; no mask leaves any out."""

    medium = IMAGES
    feature_method = IMAGES.feature_method
    visual_inputs = (IMAGES.pixels,)
    mask_input = None
    merge_sizes = Arg.IMAGE_MERGE_SIZES

    @property
    def merge_size(self) -> int:
        """See `PatchSequenceFamily.merge_size`: that of the stock image processor."""
        return 1
