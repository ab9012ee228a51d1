"""LLaVA-Video: LLaVA-OneVision with the means of 2 x 2 patches, and a newline after every row of the grid."""

from collections.abc import Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlavaOnevisionConfig
from transformers.models.llava_onevision.modeling_llava_onevision import (
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionModel,
)
from transformers.utils.generic import can_return_tuple

from ..checkpoints.checkpoint import load_complete
from ..inputs.pixels import PixelSpec
from ..inputs.prompting import check_question
from ..inputs.timestamps import of_frames
from ..registry import register_family
from ..tokens import Selection
from .common.layout import Grid
from .common.part import Part
from .common.saliency import pool_means
from .common.transformers_compat import Arg, Signature, encodes_first
from .llava_onevision import LlavaOnevision, NewlineAfterVideo, PoolingHeadSignals, SquareFrames


class LlavaVideoModel(LlavaOnevisionModel):  # type: ignore[misc] # transformers is not followed
    """The model without its head.

    Unlike in LLaVA-OneVision, a video of T frames has T x 13 x 14 features (for 27 x 27 patches): in each row of
    the grid 13 means of 2 x 2 patches and the newline, and nothing after the last row. This equals the authors' code
    with `mm_newline_position` "grid" and `mm_spatial_pool_mode` "average". Images are as in LLaVA-OneVision.
    """

    def apply_pooling(self, image_features: Tensor) -> Tensor:
        """Projected patches ``(F, side * side, D)`` as rows with their newlines: ``(F, H * (W + 1), D)``."""
        vision = self.config.vision_config
        means = pool_means(image_features, vision.image_size // vision.patch_size, 2)
        newline = self.image_newline.to(means).expand(*means.shape[:2], 1, -1)
        return torch.cat([means, newline], dim=2).flatten(1, 2)

    @can_return_tuple  # type: ignore[untyped-decorator]
    @wraps(LlavaOnevisionModel.get_video_features)
    def get_video_features(self, *args: Any, **kwargs: Any) -> Any:
        """As in LLaVA-OneVision; `pooler_output` is ``(videos, T * H * (W + 1), D)``."""
        output = super().get_video_features(*args, **{Arg.AS_DICT: True}, **kwargs)
        vision = self.config.vision_config
        half = vision.image_size // vision.patch_size // 2
        features = output.pooler_output
        # Stock code may have appended a newline to the video, which exceeds a multiple of the features of a frame.
        output.pooler_output = features[:, : features.shape[1] // (half * (half + 1)) * (half * (half + 1))]
        return output

    @wraps(LlavaOnevisionModel.forward)
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As in LLaVA-OneVision."""
        of = Signature(super().forward, "LLaVA-OneVision", (Arg.IDS, Arg.EMBEDS, Arg.VIDEO_PIXELS))
        pixels = of.get(Arg.VIDEO_PIXELS, args, kwargs)
        if pixels is None or encodes_first(self):
            return super().forward(*args, **kwargs)
        # The forward of this release appends a newline to every video, so features are inserted here.
        ids, embeds = of.get(Arg.IDS, args, kwargs), of.get(Arg.EMBEDS, args, kwargs)
        embeds = self.get_input_embeddings()(ids) if embeds is None else embeds
        options = {name: of.get(name, args, kwargs) for name in (Arg.FEATURE_LAYER, Arg.FEATURE_STRATEGY)}
        features = self.get_video_features(pixels, **{Arg.AS_DICT: True}, **options).pooler_output
        features = features.flatten(0, 1).to(embeds.device, embeds.dtype)
        _, places = self.get_placeholder_mask(ids, **{Arg.EMBEDS: embeds}, video_features=features)
        written = {Arg.IDS: None, Arg.VIDEO_PIXELS: None, Arg.EMBEDS: embeds.masked_scatter(places, features)}
        args, kwargs = of.changed(args, kwargs, written)
        return super().forward(*args, **kwargs)


class LlavaVideoForConditionalGeneration(LlavaOnevisionForConditionalGeneration):  # type: ignore[misc]
    """LLaVA-Video with the interface of a stock model: config class, inputs and names of weights are LLaVA-OneVision's.

    A prompt has T x 13 x 14 video tokens for a video of T frames, see `LlavaVideoModel`. Load saved
    checkpoints with this class or `tangovlm.load`: an Auto class would load them as LLaVA-OneVision.
    """

    def __init__(self, config: LlavaOnevisionConfig) -> None:
        super(LlavaOnevisionForConditionalGeneration, self).__init__(config)
        text = config.text_config
        self.model = LlavaVideoModel(config)
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.post_init()


class TimeInstruction(SquareFrames):
    """The question follows a sentence with the times of the frames, unless the model's config disables it.

    The model was trained with that instruction (`add_time_instruction` in its config). The video length in that
    sentence is the time of the last frame, without the duration of that frame.
    """

    def inputs(
        self,
        tokenizer: Any,
        template: str | None,
        pixels: Tensor,
        question: str,
        seconds: Tensor | None = None,
        duration_s: float | None = None,
        history: Sequence[tuple[str, str]] = (),
    ) -> dict[str, Tensor]:
        """See `PromptFormat.inputs`: the times of the frames precede the first question."""
        check_question(question)
        if getattr(self.model.config, "add_time_instruction", True):
            seconds = of_frames(seconds, pixels.shape[1])
            instruction = time_instruction(seconds.tolist())
            if history:
                (first, said), *later = history
                check_question(first)
                history = [(f"{instruction}\n{first}", said), *later]
            else:
                question = f"{instruction}\n{question}"
        return super().inputs(tokenizer, template, pixels, question, seconds, duration_s, history)


class NewlineAfterRow(NewlineAfterVideo):
    """Each row of the grid is followed by a newline, and nothing follows the last one.

    A row's newline is kept iff the row keeps a token, as in the release of Tango (xjtupanda/Tango cc815b6).
    """

    def grid(self, frames: int) -> Grid:
        """See `NewlineAfterVideo.grid`."""
        half = self.family.side // 2
        return Grid(frames, half, half)

    @property
    def features_per_frame(self) -> int:
        """See `NewlineAfterVideo.features_per_frame`."""
        grid = self.grid(1)
        return grid.height * (grid.width + 1)

    def feature_count(self, grid: Grid) -> int:
        """See `FeatureLayout.feature_count`."""
        return grid.frames * self.features_per_frame

    def grid_indices(self, grid: Grid) -> Tensor:
        """See `FeatureLayout.grid_indices`: all but the last of each row."""
        rows = torch.arange(self.feature_count(grid)).view(-1, grid.width + 1)
        return rows[:, :-1].flatten()

    def kept_features(self, selection: Selection, grid: Grid) -> Tensor:
        """See `FeatureLayout.kept_features`."""
        on_grid = torch.zeros(grid.tokens, dtype=torch.bool, device=selection.indices.device)
        on_grid[selection.indices] = True
        rows = on_grid.view(-1, grid.width)
        return torch.cat([rows, rows.any(dim=1, keepdim=True)], dim=1).flatten()

    def newlines(self, selection: Selection, grid: Grid) -> int:
        """See `FeatureLayout.newlines`: one for each row that keeps a token."""
        return int(self.kept_features(selection, grid).sum()) - selection.indices.numel()

    def newline_range(self, tokens: int, grid: Grid) -> tuple[int, int]:
        """See `FeatureLayout.newline_range`: from as few rows as hold the tokens to one for each token."""
        return -(-tokens // grid.width), min(tokens, grid.frames * grid.height)

    def tokens_within(self, features: float, grid: Grid) -> float:
        """See `FeatureLayout.tokens_within`: each token may be the only one of its row, and so keep a newline."""
        return max(features / 2, super().tokens_within(features, grid))


class MeanPooledSignals(PoolingHeadSignals):
    """Signals are averaged over 2 x 2 patches, as the features are."""

    def pool(self, values: Tensor) -> Tensor:
        """See `PoolingHeadSignals.pool`."""
        return pool_means(values, self.family.side, 2)


@register_family("LlavaVideoForConditionalGeneration")
class LlavaVideo(LlavaOnevision):
    """`LlavaVideoForConditionalGeneration`; see `tangovlm.checkpoints.llava_original` for published checkpoints."""

    name = "llava-video"
    checkpoints = ("lmms-lab/LLaVA-Video-7B-Qwen2", "lmms-lab/LLaVA-Video-72B-Qwen2")
    default_frames = 64
    in_one_piece = False
    prunes_images = False
    # As in its training; there is no stock processor.
    pixel_spec = PixelSpec(size=(384, 384), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    prompt = Part(TimeInstruction)
    layout = Part(NewlineAfterRow)
    signals = Part(MeanPooledSignals)

    @classmethod
    def load_model(cls, source: str, **options: Any) -> Any:
        """See `Family.load_model`."""
        return load_complete(LlavaVideoForConditionalGeneration, source, **options)


def time_instruction(seconds: list[float]) -> str:
    """The instruction with the times of the frames, as in the training of LLaVA-Video."""
    times = ",".join(f"{time:.2f}s" for time in seconds)
    return (
        f"The video lasts for {seconds[-1]:.2f} seconds, and {len(seconds)} frames are uniformly sampled from it. "
        f"These frames are located at {times}.Please answer the following questions related to this video."
    )
