"""Compatibility with `transformers`: names of arguments of stock models, and differences between supported releases.

No other file contains the name of an argument of a stock forward. Names that differ between releases are looked up in
the signatures of the model when a method is attached; an unknown name raises an error there.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import ModelError

TESTED: tuple[str, ...] = ("5.17", "5.18", "5.19", "5.20", "5.21", "5.22", "5.23", "5.24")
"""Releases of transformers on which the families are tested; each with all of its patch releases."""


def is_tested(version: str) -> bool:
    """Whether a version is one of `TESTED` or a patch of one; a pre-release such as 5.24.0rc1 is not."""
    release = re.fullmatch(r"(\d+\.\d+)(\.\d+)*(\.post\d+)?(\+.*)?", version)
    return release is not None and release[1] in TESTED


def check_since(release: str, family: str) -> None:
    """Raise `ModelError` unless the installed transformers is at least a release such as "5.21"."""
    import transformers

    if _numbers(transformers.__version__) < _numbers(release):
        raise ModelError(
            f"the family {family} needs transformers {release} or newer, not {transformers.__version__}: install "
            f"transformers {newest_tested()}"
        )


def _numbers(version: str) -> tuple[int, ...]:
    """The major and minor number of a version."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


class Arg:
    """Names of arguments of stock models, and of the functions through which `generate` calls them."""

    INPUTS = "inputs"
    IDS = "input_ids"
    MASK = "attention_mask"
    EMBEDS = "inputs_embeds"
    POSITIONS = "position_ids"
    ROTARY = "position_embeddings"
    CACHE = "cache"
    USE_CACHE = "use_cache"
    LABELS = "labels"
    ENCODED = "mm_encoder_outputs"
    AS_DICT = "return_dict"
    PIXELS = "pixel_values"
    IMAGE_PIXELS = "pixel_values_images"
    PIXEL_MASK = "pixel_attention_mask"
    IMAGE_GRIDS = "image_grid_thw"
    IMAGE_SIZES = "image_sizes"
    IMAGE_COUNTS = "batch_num_images"
    ASPECT_RATIO = "vision_aspect_ratio"
    VIDEO_PIXELS = "pixel_values_videos"
    VIDEO_GRIDS = "video_grid_thw"
    VIDEO_MERGE_SIZES = "video_merge_sizes"
    IMAGE_MERGE_SIZES = "image_merge_sizes"
    VIDEO_SIZES = "target_sizes_videos"
    SIZES = "target_sizes"
    DOWNSAMPLING = "downsample_mode"
    MERGES_WINDOWS = "use_vit_merger"
    VIDEO_MASK = "video_compression_mask"
    VIDEO_POSITIONS = "video_position_ids"
    IMAGE_POSITIONS = "image_position_ids"
    FRAME_COUNTS = "num_frames_per_video"
    PATCH_POSITIONS = "pixel_position_ids"
    METADATA = "video_metadata"
    STEP_SECONDS = "second_per_grid_ts"
    VIDEO_STEP_SECONDS = "video_second_per_grid"
    SOUND_IN_VIDEO = "use_audio_in_video"
    HIDDEN_STATES = "output_hidden_states"
    TOKEN_TYPES = "mm_token_type_ids"
    GRIDS = "grid_thw"
    MERGE_SIZES = "merge_sizes"
    FEATURE_LAYER = "vision_feature_layer"
    FEATURE_STRATEGY = "vision_feature_select_strategy"
    DEEP_PLACES = "visual_pos_masks"
    DEEP_FEATURES = "deepstack_visual_embeds"
    FIRST_FORWARD = "is_first_iteration"
    NEW_LENGTH = "next_sequence_length"
    LOGITS = "logits_to_keep"
    STATES = "last_hidden_state"
    LAYER_INPUTS = "per_layer_inputs"
    BLOCKS = "block_sequence_ids"


_OTHER_NAMES: dict[str, tuple[str, ...]] = {
    # 5.17 to 5.23. Later releases still accept it from a caller, and rename it after our hooks have run.
    Arg.CACHE: ("past_key_values",),
    # Video-LLaVA in 5.17, and its stock processor.
    Arg.PIXELS: (Arg.IMAGE_PIXELS,),
    # Models that also hear.
    Arg.STEP_SECONDS: (Arg.VIDEO_STEP_SECONDS,),
}


def value_of(kwargs: Mapping[str, Any], name: str) -> Any:
    """An argument of a call, under any of its names in supported releases; None if it is missing."""
    for known in (name, *_OTHER_NAMES.get(name, ())):
        if kwargs.get(known) is not None:
            return kwargs[known]
    return None


def pop_value(kwargs: dict[str, Any], name: str) -> Any:
    """As `value_of`, and remove it from `kwargs`."""
    found = value_of(kwargs, name)
    for known in (name, *_OTHER_NAMES.get(name, ())):
        kwargs.pop(known, None)
    return found


class Signature:
    """Names of the arguments of one function of a stock model in the installed release.

    Parameters
    ----------
    function: of the model.
    what: its description in messages.
    needs: arguments, as in `Arg`, that it must accept under a known name.
    inherits: the object whose method it is, if it passes other arguments on to the method of a parent class.

    Raises
    ------
    ModelError: it does not accept one of them under any known name.

    Examples
    --------
    >>> def forward(inputs_embeds=None, past_key_values=None): ...
    >>> signature = Signature(forward, "the text model", [Arg.CACHE])
    >>> signature.values({Arg.CACHE: 1})
    {'past_key_values': 1}
    >>> signature.get(Arg.CACHE, (2, 3), {})
    3
    """

    def __init__(
        self, function: Callable[..., Any], what: str, needs: Iterable[str], inherits: object | None = None
    ) -> None:
        self.names = tuple(inspect.signature(function).parameters)
        for cls in type(inherits).__mro__ if inherits is not None else ():
            inherited = vars(cls).get(function.__name__)
            more = () if inherited is None else inspect.signature(inherited).parameters
            self.names += tuple(name for name in more if name not in ("self", *self.names))
        for name in needs:
            if self.name(name) not in self.names:
                import transformers

                raise ModelError(
                    f"{what} of transformers {transformers.__version__} has no argument {name!r}, but "
                    f"{', '.join(self.names)}: this release is not supported, install transformers {newest_tested()}"
                )

    def name(self, name: str) -> str:
        """The function's name of an argument."""
        known = (name, *_OTHER_NAMES.get(name, ()))
        return next((own for own in known if own in self.names), name)

    def get(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """An argument of a call, by name or position; None if it is missing."""
        if (found := value_of(kwargs, name)) is not None:
            return found
        own = self.name(name)
        place = self.names.index(own) if own in self.names else len(args)
        return args[place] if place < len(args) else None

    def values(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments under the function's names."""
        return {self.name(name): value for name, value in values.items()}

    def changed(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], values: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call with some values replaced, each by name or position as the caller has it."""
        placed, named = list(args), dict(kwargs)
        for name, value in values.items():
            own = self.name(name)
            if own in self.names and self.names.index(own) < len(args):
                placed[self.names.index(own)] = value
            else:
                pop_value(named, name)
                named[own] = value
        return tuple(placed), named


def mask_arguments(config: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a stock function that makes the masks of the layers of a text model with this config."""
    return {"config": config, **values}


def cache_for(function: Callable[..., Any], cache: Any) -> dict[str, Any]:
    """The keyword argument with a cache for a function of a stock model."""
    return Signature(function, "a function", ()).values({Arg.CACHE: cache})


def cache_in(output: Any) -> Any:
    """The cache in the output of a model; None if there is none."""
    # By its keys: the attribute of the old name still exists in newer releases, with a warning.
    return value_of(dict(output.items()), Arg.CACHE) if isinstance(output, Mapping) else None


def pixels_name(kwargs: Mapping[str, Any]) -> str:
    """Keyword of the pixels in a call of `get_video_features` of the LLaVA models; 5.17 has one name for all pixels."""
    return Arg.VIDEO_PIXELS if Arg.VIDEO_PIXELS in kwargs else Arg.PIXELS


def newest_tested() -> str:
    """The newest tested release and its patch releases, for messages."""
    return f"{TESTED[-1]}.*"


def encodes_first(model: Any) -> bool:
    """Whether `generate` encodes videos once, before it copies prompts for beams and passes them to a streamer.

    Otherwise (5.17) the first forward encodes every copy of a video.
    """
    return Arg.ENCODED in inspect.signature(model.forward).parameters


def counts_frames(model: Any) -> bool:
    """Whether Gemma 4 gets the number of frames of each video; otherwise (5.17) its inputs have an axis of videos."""
    return Arg.FRAME_COUNTS in inspect.signature(model.forward).parameters


def copies_prompts(model: Any) -> bool:
    """Whether the videos of a prompt are copied together (5.17) for several beams or sequences, not one by one.

    This is so in models that receive the patches of all videos as one sequence.
    """
    from transformers.generation.utils import GenerationMixin

    return type(model)._expand_inputs_for_generation is not GenerationMixin._expand_inputs_for_generation


def with_pooler_output(output: Any) -> Any:
    """An output with `pooler_output` among its fields: in 5.17, it is an attribute of VideoLLaMA3's, but no field."""
    if "pooler_output" in output:
        return output
    # Not above: `import tangovlm` must not import transformers.
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    return BaseModelOutputWithPooling(**output, pooler_output=output.pooler_output)


def vision_model(tower: Any) -> Any:
    """A SigLIP or CLIP vision model, without its wrapper in 5.17."""
    return getattr(tower, "vision_model", tower)


def concatenated(features: Any) -> Tensor:
    """Features ``(R, ...)`` of a call, which are one tensor or a sequence of tensors, depending on the release."""
    return features if isinstance(features, Tensor) else torch.cat(list(features))


def split_like(features: Tensor, sizes: Sequence[int], like: Any) -> Any:
    """Inverse of `concatenated`: features ``(R, ...)`` in the form of `like`, divided into these sizes if it is."""
    return features if isinstance(like, Tensor) else type(like)(torch.split(features, list(sizes)))


def stack_like(videos: Tensor, like: Any) -> Any:
    """Features of videos of equal length ``(V, ...)`` in the form of `like`: one tensor, or one for each video."""
    return videos if isinstance(like, Tensor) else type(like)(videos)
