"""Checkpoints in the format of LLaVA's authors (lmms-lab), loaded as models with the stock interface.

Their config.json names the class `LlavaQwenForCausalLM` and describes a Qwen2 model, with fields `mm_*` for what
LLaVA adds; the vision tower is only named. No code is executed, and only safetensors are read. The conversion:

* `mm_newline_position` "grid" is LLaVA-Video (`LlavaVideoForConditionalGeneration`), without it or with "one_token" it
  is LLaVA-OneVision (`LlavaOnevisionForConditionalGeneration`). LLaVA-Video pools by means even if
  `mm_spatial_pool_mode` is "bilinear": its paper (arXiv 2410.02713) has 13 x 13 tokens per frame, and the evaluation
  kits of its authors and of Tango overwrite that field with "average". Other combinations are errors.
* Placeholders: the authors write the text "<image>" for images and videos, and replace it by the id -200. Here
  "<image>" and "<video>" are tokens: the tokenizer's own if it has them, else the next ids after its last (151646 and
  151647 for Qwen2, the ids of the stock conversions). The embedding has unused rows for them (152064 rows in the 7B
  model, 151936 in the 0.5B), so that no weight grows.
* Prompts are in the chat format of Qwen2 with its standard system prompt, as in the authors' template `qwen_1_5`.
* Pixels are those of SigLIP: resized to 384 x 384 (bicubic), mean and deviation 0.5. Files for preprocessing in a
  checkpoint are not read, as the authors' code does not.
* Sampling settings are those of generation_config.json, without `repetition_penalty`: in the authors' code it applies
  to the answer only, here it would apply to the prompt as well.

To save such a model, call both `model.save_pretrained(folder)` and `processor.save_pretrained(folder)`.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..errors import ModelError
from ..registry import family_for
from . import checkpoint

ARCHITECTURES = ("LlavaQwenForCausalLM", "llava_qwen")
"""The class in a config.json, or the model type if it names no class."""

KEY_MAPPING: dict[str, str] = {
    r"^model\.vision_tower\.vision_tower\.vision_model\.": "model.vision_tower.",
    r"^model\.mm_projector\.0\.": "model.multi_modal_projector.linear_1.",
    r"^model\.mm_projector\.2\.": "model.multi_modal_projector.linear_2.",
    r"^model\.embed_tokens\.": "model.language_model.embed_tokens.",
    r"^model\.layers\.": "model.language_model.layers.",
    r"^model\.norm\.": "model.language_model.norm.",
}
"""Patterns of the names of weights, and their replacements in a stock model; other names are the same."""


class Tower(NamedTuple):
    """A vision tower that config.json only names.

    Parameters
    ----------
    vision: fields of `SiglipVisionConfig`, without the last layer, which LLaVA removes.
    pixels: preprocessor config.
    """

    vision: Mapping[str, Any]
    pixels: Mapping[str, Any]


TOWERS: dict[str, Tower] = {
    "google/siglip-so400m-patch14-384": Tower(
        vision={
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 26,
            "num_attention_heads": 16,
            "image_size": 384,
            "patch_size": 14,
        },
        pixels={"size": {"height": 384, "width": 384}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3},
    ),
}

TEMPLATE = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}"
    "{% if part.type in ('image', 'video') %}<{{ part.type }}>\n{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_SUPPORTED: dict[str, tuple[object, ...]] = {
    "hidden_act": ("silu",),
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_patch_merge_type": ("spatial_unpad",),
    "mm_vision_select_layer": (-2,),
    "mm_vision_select_feature": ("patch",),
    "mm_newline_position": ("grid", "one_token", None),
    "mm_spatial_pool_stride": (2, None),
    "mm_resampler_type": (None,),
    "mm_use_im_start_end": (False, None),
    "add_faster_video": (False, None),
    "rope_scaling": (None,),
    "torch_dtype": ("bfloat16", "float16", "float32", None),
}
"""Supported values of fields; None also means a missing field."""

_POOLING: dict[str, tuple[object, ...]] = {"grid": ("average", "bilinear", None), "one_token": ("bilinear", None)}

_TEXT_WHOLE = (
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "vocab_size",
)
_TEXT_REAL = ("rms_norm_eps", "rope_theta")
_TEXT_OTHERS = (
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "initializer_range",
    "max_window_layers",
    "pad_token_id",
    "sliding_window",
    "tie_word_embeddings",
    "use_cache",
    "use_sliding_window",
)
"""Fields of `Qwen2Config`; the last ones are optional."""


class Conversion(NamedTuple):
    """Description of the converted model.

    Parameters
    ----------
    architecture: name of its class.
    fields: of `LlavaOnevisionConfig`, without the placeholders' ids.
    pixels: preprocessor config.
    """

    architecture: str
    fields: dict[str, Any]
    pixels: Mapping[str, Any]


def convert(config: Mapping[str, Any], source: str) -> Conversion:
    """Convert an original config to a stock one.

    Parameters
    ----------
    config: the parsed config.json.
    source: of the checkpoint, for messages.

    Raises
    ------
    ModelError: a field is missing, or has a value that is not supported.
    """
    for name, values in _SUPPORTED.items():
        _check(config, name, values, source)
    layout = config.get("mm_newline_position") or "one_token"
    _check(config, "mm_spatial_pool_mode", _POOLING[layout], source)
    _check(config, "mm_vision_tower", tuple(TOWERS), source)
    tower = TOWERS[config["mm_vision_tower"]]
    _check(config, "mm_hidden_size", (tower.vision["hidden_size"],), source)
    text = _text(config, source)
    fields: dict[str, Any] = {
        "vision_config": {"model_type": "siglip_vision_model", "vision_use_head": False, **tower.vision},
        "text_config": {"model_type": "qwen2", **text},
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "tie_word_embeddings": bool(text.get("tie_word_embeddings", False)),
        "dtype": config.get("torch_dtype"),
        **_images(config, source),
    }
    if layout != "grid":
        return Conversion("LlavaOnevisionForConditionalGeneration", fields, tower.pixels)
    fields["add_time_instruction"] = bool(config.get("add_time_instruction", True))
    return Conversion("LlavaVideoForConditionalGeneration", fields, tower.pixels)


def _check(config: Mapping[str, Any], name: str, supported: tuple[object, ...], source: str) -> None:
    if config.get(name) not in supported:
        known = ", ".join(json.dumps(value) for value in supported)
        raise ModelError(
            f"config.json of {source} has {name} {json.dumps(config.get(name))}, but supported is only {known}: "
            "name another checkpoint"
        )


def _text(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Fields of `Qwen2Config`."""
    for name in (*_TEXT_WHOLE, *_TEXT_REAL):
        value = config.get(name)
        if not _is_number(value) or (name in _TEXT_WHOLE and not isinstance(value, int)):
            raise ModelError(f"config.json of {source} has {name} {json.dumps(value)}: fetch the checkpoint again")
    fields = {name: config[name] for name in (*_TEXT_WHOLE, *_TEXT_REAL, *_TEXT_OTHERS) if name in config}
    # The authors truncate longer prompts.
    if _is_number(config.get("tokenizer_model_max_length")):
        fields["max_position_embeddings"] = min(fields["max_position_embeddings"], config["tokenizer_model_max_length"])
    return fields


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def _images(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Fields that say how images are divided into tiles."""
    ratio, sizes = config.get("image_aspect_ratio"), config.get("image_grid_pinpoints")
    if not isinstance(ratio, str) or re.fullmatch(r"anyres_max_\d+", ratio) is None:
        raise ModelError(
            f"config.json of {source} has image_aspect_ratio {json.dumps(ratio)}: supported is anyres_max_<number>"
        )
    pairs = isinstance(sizes, list) and all(
        isinstance(size, list) and len(size) == 2 and all(map(_is_number, size)) for size in sizes
    )
    if not sizes or not pairs:
        raise ModelError(f"config.json of {source} has image_grid_pinpoints that is no list of pairs of numbers")
    # Stock code has the height first, the authors' code the width.
    return {"vision_aspect_ratio": ratio, "image_grid_pinpoints": [[height, width] for width, height in sizes]}


def load(source: str, **options: Any) -> checkpoint.Checkpoint:
    """Load a checkpoint in the original format; see the module.

    Parameters
    ----------
    options: of `from_pretrained`.

    Raises
    ------
    ModelError: see `convert`; weights are missing or have another shape; the vocabulary has no room.
    """
    from transformers import LlavaOnevisionConfig, Qwen2Tokenizer

    local = {name: options[name] for name in ("local_files_only", "trust_remote_code") if name in options}
    given = checkpoint.read_json(source, "config.json", local=bool(options.get("local_files_only"))) or {}
    conversion = convert(given, source)
    config = LlavaOnevisionConfig(**conversion.fields)
    tokenizer = checkpoint.read_tokenizer(Qwen2Tokenizer, source, **local)
    config.image_token_index, config.video_token_index = _placeholders(tokenizer, config.text_config.vocab_size, source)
    family = family_for(conversion.architecture)
    model = family.load_model(source, config=config, key_mapping=KEY_MAPPING, **options)
    # With it `save_pretrained` would write the weights under their old names, with the new config.
    model._weight_conversions = None
    model.generation_config.repetition_penalty = None
    # So that it is saved with the tokenizer.
    tokenizer.chat_template = TEMPLATE
    return checkpoint.Checkpoint(family, model, tokenizer, conversion.pixels, TEMPLATE)


def _placeholders(tokenizer: Any, vocab_size: int, source: str) -> tuple[int, int]:
    """Ids of "<image>" and "<video>", which are added to the tokenizer."""
    from transformers import AddedToken

    # Without its files the class returns an empty tokenizer.
    if "<|im_start|>" not in tokenizer.get_vocab():
        raise ModelError(f"{source} has no tokenizer of Qwen2 with <|im_start|>: fetch the checkpoint again")
    names = ["<image>", "<video>"]
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in names], special_tokens=True)
    tokenizer.padding_side = "left"
    image, video = tokenizer.convert_tokens_to_ids(names)
    if max(image, video) >= vocab_size:
        raise ModelError(
            f"config.json of {source} has vocab_size {vocab_size}, but the placeholders would be tokens {image} and "
            f"{video}: fetch the checkpoint's tokenizer again"
        )
    return image, video
