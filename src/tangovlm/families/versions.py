"""What differs between the releases of transformers that are supported, 5.17 to 5.24."""

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

TESTED: tuple[str, ...] = ("5.17", "5.18", "5.19", "5.20", "5.21", "5.22", "5.23", "5.24")
"""Releases of transformers that the tests pass on, oldest first."""


def is_tested(version: str) -> bool:
    """Whether a version is one of `TESTED` or a patch of one; a pre-release such as 5.24.0rc1 is not."""
    release = re.fullmatch(r"(\d+\.\d+)(\.\d+)*(\.post\d+)?(\+.*)?", version)
    return release is not None and release[1] in TESTED


def pixels_name(kwargs: Mapping[str, Any]) -> str:
    """Keyword of the pixels in a call of LLaVA-OneVision's `get_video_features`; 5.17 does not tell videos apart."""
    return "pixel_values_videos" if "pixel_values_videos" in kwargs else "pixel_values"


def encodes_first(model: Any) -> bool:
    """Whether `generate` encodes videos once, before it copies prompts for beams and hands them to a streamer.

    Otherwise (5.17) the first forward encodes, and every copy of a video anew.
    """
    return "mm_encoder_outputs" in inspect.signature(model.forward).parameters


def copies_prompts(model: Any) -> bool:
    """Whether the videos of a prompt are copied together (5.17) for several beams or sequences, not each by itself.

    Models do that whose videos lie in a row in one tensor of patches.
    """
    from transformers.generation.utils import GenerationMixin

    return type(model)._expand_inputs_for_generation is not GenerationMixin._expand_inputs_for_generation


def pooled(output: Any) -> Any:
    """An output with `pooler_output` among its fields: in 5.17, VideoLLaMA3's is an attribute and no field."""
    if "pooler_output" in output:
        return output
    # Not above: `import tangovlm` must not import transformers.
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    return BaseModelOutputWithPooling(**output, pooler_output=output.pooler_output)


def bare(tower: Any) -> Any:
    """A SigLIP or CLIP vision model, without the wrapper that 5.17 puts around it."""
    return getattr(tower, "vision_model", tower)


def in_a_row(features: Any) -> Tensor:
    """Features ``(R, ...)`` of a call, which releases give as that or as one tensor for each video or row."""
    return features if isinstance(features, Tensor) else torch.cat(list(features))


def divided(rows: Tensor, sizes: Sequence[int], like: Any) -> Any:
    """Undoes `in_a_row`, in the form of `like`: rows ``(R, ...)`` of all videos, or as many as its size for each."""
    return rows if isinstance(like, Tensor) else type(like)(torch.split(rows, list(sizes)))


def stacked(videos: Tensor, like: Any) -> Any:
    """Features of equally long videos ``(V, ...)`` in the form of `like`: in one tensor, or one for each video."""
    return videos if isinstance(like, Tensor) else type(like)(videos)
