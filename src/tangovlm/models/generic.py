"""Any other model of the common pattern: features from `get_video_features`, one placeholder each, one text model.

Nothing is known of such a model but what its class and its config say, so that it is used only on request, and after
`selfcheck.generic` has compared it with a reference.
"""

from collections.abc import Callable, Sequence
from math import isqrt
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import InputError, ModelError
from .common.encoding import ChunkedEncoding
from .common.family import Family
from .common.layout import Clip, FeatureLayout, Grid
from .common.part import Part
from .common.signals import EncoderSignals, ForwardHook, SignalParts
from .common.transformers_compat import Arg, Signature, concatenated, split_like

PATTERN = (
    "get_video_features with pixel_values_videos",
    "a placeholder for videos in the config (video_token_id)",
    "one text model (get_decoder, with layers)",
    "the size of a frame in tokens (video_grid_thw, or vision_config.image_size)",
)
"""What a model must have."""


class AnyLayout(FeatureLayout):
    """Grids from ``video_grid_thw (V, 3)`` in patches, or squares of equal size for pixels ``(V, T, 3, H, W)``."""

    family: "Generic"

    @property
    def frames_per_step(self) -> int:
        """See `FeatureLayout.frames_per_step`: of patches, as the config says."""
        return int(getattr(self.model.config.vision_config, "temporal_patch_size", 1)) if self.family.patched else 1

    def grids(self, *args: Any, **kwargs: Any) -> list[Grid]:
        """See `FeatureLayout.grids`."""
        signature = Signature(getattr(self.family.encoder, self.family.feature_method), "get_video_features", ())
        thw = signature.get(Arg.VIDEO_GRIDS, args, kwargs)
        if thw is not None:
            merge = self.family.merge_size
            return [Grid(steps, height // merge, width // merge) for steps, height, width in thw.tolist()]
        pixels, side = signature.get(Arg.VIDEO_PIXELS, args, kwargs), self.family.side
        if pixels.dim() != 5:
            raise InputError(
                f"pixel_values_videos has the shape {tuple(pixels.shape)}: a model of no known family needs (videos, "
                "frames, channels, height, width), or video_grid_thw beside it"
            )
        return [Grid(pixels.shape[1], side, side)] * pixels.shape[0]

    def features(self, output: Any, clips: Sequence[Clip]) -> list[Tensor]:
        """See `FeatureLayout.features`: in one tensor or several, also by frame."""
        pooled = output.pooler_output
        rows = concatenated(pooled if isinstance(pooled, Tensor) else [part.flatten(0, -2) for part in pooled])
        return list(torch.split(rows.flatten(0, -2), [clip.grid.tokens for clip in clips]))

    def replace_video_features(self, output: Any, _clips: Sequence[Clip], features: Sequence[Tensor]) -> None:
        """See `FeatureLayout.replace_video_features`."""
        old, rows = output.pooler_output, torch.cat(list(features))
        if isinstance(old, Tensor):
            output.pooler_output = rows.view(old.shape)
        else:
            parts = split_like(rows, [part.shape[:-1].numel() for part in old], old)
            output.pooler_output = type(old)(new.view(part.shape) for new, part in zip(parts, old, strict=True))


class NoSignals(EncoderSignals):
    """The encoder is not known, so that methods get features and times only."""

    provides: ClassVar[frozenset[str]] = frozenset({"timestamps"})
    saliency_kinds: ClassVar[tuple[str, ...]] = ()

    def resolve_saliency(self, wanted: str | None = None) -> str:
        """See `EncoderSignals.resolve_saliency`: none."""
        del wanted
        return ""

    def hooks(self, _collected: SignalParts, _needs: frozenset[str], _kind: str) -> list[ForwardHook]:
        """See `EncoderSignals.hooks`: none."""
        return []


class WholeEncoding(ChunkedEncoding):
    """All frames at once: whether the frames of a video attend to each other is not known."""

    def frame_bytes(self, _grids: Sequence[Grid]) -> int:
        """See `ChunkedEncoding.frame_bytes`: unknown."""
        return 0

    def encode(self, original: Callable[..., Any], chunk_frames: int | None, *args: Any, **kwargs: Any) -> Any:
        """See `ChunkedEncoding.encode`: one call of the stock method."""
        if chunk_frames is not None and chunk_frames < sum(
            grid.frames for grid in self.family.layout.grids(*args, **kwargs)
        ):
            raise InputError("chunk_frames does not work with a model of no known family: leave it out")
        return original(*args, **kwargs)

    def encode_chunks(
        self, original: Callable[..., Any], bounds: Sequence[tuple[int, int]], *args: Any, **kwargs: Any
    ) -> Any:
        """See `ChunkedEncoding.encode_chunks`: `encode` does not call it."""
        raise NotImplementedError


class Generic(Family):
    """A model of no known family; `of` chooses the class for its positions.

    Parameters
    ----------
    model: the stock model.

    Raises
    ------
    ModelError: it does not have all of `PATTERN`.
    """

    name = "generic"
    checkpoints = ()
    tested = frozenset()
    layout = Part(AnyLayout)
    signals = Part(NoSignals)
    encoding = Part(WholeEncoding)

    def __init__(self, model: Any, **options: Any) -> None:
        super().__init__(model, **options)
        if missing := missing_parts(type(model), model.config):
            raise ModelError(
                f"{type(model).__name__} cannot be used as a model of no known family: it lacks {'; '.join(missing)}"
            )
        self._tokens_per_frame = 0

    @classmethod
    def of(cls, model: Any, **options: Any) -> "Generic":
        """The family bound to a model."""
        kind = GenericMRope if hasattr(getattr(model, "model", None), "get_rope_index") else cls
        return kind(model, **options)

    @property
    def patched(self) -> bool:
        """Whether the encoder takes patches and their grids."""
        return Arg.VIDEO_GRIDS in Signature(self.model.forward, "the model", ()).names

    @property
    def merge_size(self) -> int:
        """Side of a token in patches."""
        return int(getattr(self.model.config.vision_config, "spatial_merge_size", 1))

    @property
    def side(self) -> int:
        """Side of a frame of equal size in tokens, measured with one black frame.

        Raises
        ------
        ModelError: the tokens of a frame are no square.
        """
        if not self._tokens_per_frame:
            pixels = torch.zeros(1, 1, 3, *frame_size(self.model.config), device=self.device, dtype=self.model.dtype)
            feature_method = getattr(type(self.encoder), self.feature_method)
            with torch.no_grad():
                output = feature_method(self.encoder, pixels, **{Arg.AS_DICT: True})
            self._tokens_per_frame = sum(part.shape[:-1].numel() for part in output.pooler_output)
        side = isqrt(self._tokens_per_frame)
        if side**2 != self._tokens_per_frame:
            raise ModelError(
                f"{type(self.model).__name__} has {self._tokens_per_frame} tokens for a frame, which are no square: "
                "only a family of its own can know their places"
            )
        return side


class GenericMRope(Generic):
    """A `Generic` model whose position ids have several axes."""

    keeps_positions = True


def missing_parts(model_class: type, config: Any) -> list[str]:
    """Those of `PATTERN` that a model class and a config lack."""
    base = getattr(model_class, "forward", None)
    names = Signature(base, "forward", ()).names if base is not None else ()
    features = getattr(model_class, Family.feature_method, None)
    has_features = features is not None and Arg.VIDEO_PIXELS in Signature(features, "", ()).names
    vision = getattr(config, "vision_config", None)
    sized = Arg.VIDEO_GRIDS in names or getattr(vision, "image_size", None) is not None
    placeholder = getattr(config, "video_token_index", None) or getattr(config, "video_token_id", None)
    has = (
        has_features and Arg.VIDEO_PIXELS in names,
        placeholder is not None,
        hasattr(model_class, "get_decoder") and getattr(config, "text_config", None) is not None,
        sized,
    )
    return [part for part, there in zip(PATTERN, has, strict=True) if not there]


def frame_size(config: Any) -> tuple[int, int]:
    """Height and width in pixels of frames of equal size."""
    size = config.vision_config.image_size
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))
