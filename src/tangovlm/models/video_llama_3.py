"""VideoLLaMA3: a SigLIP tower with rotary positions, bilinear pooling, a projector, and times as text before frames."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..inputs.frame_size import SizeRule
from ..inputs.pixels import PixelSpec
from ..registry import register_family
from .common.layout import Clip, Grid, Prompt
from .common.part import Part
from .common.patch_sequence import PatchSequenceFamily, PatchSequenceLayout, TimestampedSteps
from .common.patch_signals import PatchSequenceSignals
from .common.patches.encoding import PatchSequenceEncoding
from .common.prompt_format import VideoInput
from .common.signals import ForwardHook, SignalParts, on_input
from .common.transformers_compat import Arg, with_pooler_output

COMPRESSION = (
    "the checkpoint's own processor drops tokens whose pixels hardly change between frames (use_token_compression): "
    "here only the method drops tokens"
)
_NAMES = (Arg.VIDEO_PIXELS, Arg.VIDEO_GRIDS, Arg.VIDEO_MERGE_SIZES)


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

    @property
    def frames_per_step(self) -> int:
        """See `FeatureLayout.frames_per_step`."""
        return 1

    def grids(self, *args: Any, **kwargs: Any) -> list[Grid]:
        """See `FeatureLayout.grids`."""
        named = dict(zip(_NAMES, args, strict=False)) | kwargs
        thw, given = named[Arg.VIDEO_GRIDS].tolist(), named.get(Arg.VIDEO_MERGE_SIZES)
        sides = [self.family.merge_size] * len(thw) if given is None else given.tolist()
        return [Grid(t, height // side, width // side) for (t, height, width), side in zip(thw, sides, strict=True)]

    def clips(self, _prompt: Prompt, *args: Any, **kwargs: Any) -> list[Clip]:
        """See `FeatureLayout.clips`.

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
                f"{self.family.mask_input} has {mask.numel()} entries, but the videos {sum(sizes)} tokens: give what "
                "the video processor returned with the pixels"
            )
        note = f"{self.family.mask_input} leaves out tokens, among them some that the method keeps"
        parts = torch.split(mask, sizes)
        return [clip._replace(forwarded_mask=part, notes=(note,)) for clip, part in zip(clips, parts, strict=True)]


class DefaultMergeSignals(PatchSequenceSignals):
    """Signals of videos with the default merge size only."""

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
                f"video_merge_sizes are {sizes}: this method needs {default}, which is the video processor's default"
            )


class MergedFramesEncoding(PatchSequenceEncoding):
    """The stock method has merge sizes as a third argument."""

    def encode_chunks(
        self, original: Callable[..., Any], bounds: Sequence[tuple[int, int]], *args: Any, **kwargs: Any
    ) -> Any:
        """See `ChunkedEncoding.encode_chunks`."""
        named = dict(zip(_NAMES, args, strict=False)) | kwargs
        return super().encode_chunks(
            lambda *part, **options: with_pooler_output(original(*part, **options)), bounds, **named
        )

    def encode_some(
        self, original: Callable[..., Any], chunk_frames: int | None, rows: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        """See `ChunkedEncoding.encode_some`."""
        named = dict(zip(_NAMES, args, strict=False)) | kwargs
        return super().encode_some(
            lambda *part, **options: with_pooler_output(original(*part, **options)), chunk_frames, rows, **named
        )

    def options_of(self, videos: list[int], options: dict[str, Any]) -> dict[str, Any]:
        """See `PatchSequenceEncoding.options_of`."""
        return options | {Arg.VIDEO_MERGE_SIZES: options[Arg.VIDEO_MERGE_SIZES][videos]}


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
    mask_input = Arg.VIDEO_MASK
    # They have tokens of another size than videos.
    prunes_images = False
    prompt = Part(FramesWithTimes)
    layout = Part(MergedFrames)
    signals = Part(DefaultMergeSignals)
    encoding = Part(MergedFramesEncoding)

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
