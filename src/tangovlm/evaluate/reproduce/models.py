"""Shapes of the paper's models, from which a plan is made before any weights are available."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tangovlm.errors import InputError
from tangovlm.inputs.frame_size import LIMIT
from tangovlm.models.common.transformers_compat import Arg
from tangovlm.models.qwen2_vl import SIZE_RULE
from tangovlm.pipeline.load import BUILTIN

from ..shapes import QWEN, SIGLIP, TEXTS, Text, Tower

TINY = "tangovlm-tiny"
"""Name of the embedded model on the command line."""
# The authors' checkpoint: its prompt has the system turn of the authors' runs, the one of the llava-hf conversion has
# none.
LLAVA_ONEVISION = "lmms-lab/llava-onevision-qwen2-7b-ov"
LLAVA_VIDEO = "lmms-lab/LLaVA-Video-7B-Qwen2"
QWEN2_5_VL = "Qwen/Qwen2.5-VL-7B-Instruct"

_MERGED = 28
_MAX_PIXELS = 448 * 448
"""Limit on a frame's area for Qwen2.5-VL, as in the paper."""
_SOURCE_SIZE = (720, 1280)
"""Assumed height and width of the videos for a model whose frames keep their aspect ratio."""


@dataclass(frozen=True)
class Shape:
    """The shape of a Video LLM and of its visual tokens.

    Parameters
    ----------
    model: the name that the user gave.
    text: shape of the language model.
    tower: shape of the vision encoder.
    patches: patches per frame in the encoder.
    tokens: visual tokens per temporal step.
    newlines: tokens per temporal step that are never pruned.
    frames_per_step: frames that are merged into one temporal step.
    dtype_bytes: bytes per weight.
    max_frame_pixels: limit on the area of a frame, for a model that accepts any frame size.
    """

    model: str
    text: Text
    tower: Tower
    patches: int
    tokens: int
    newlines: int = 0
    frames_per_step: int = 1
    dtype_bytes: int = 2
    max_frame_pixels: int | None = None

    def tokens_before(self, frames: int) -> int:
        """Visual tokens of a video that can be pruned."""
        return math.ceil(frames / self.frames_per_step) * self.tokens

    def newlines_before(self, frames: int) -> int:
        """Newline tokens of the unpruned video."""
        return math.ceil(frames / self.frames_per_step) * self.newlines


def _known() -> dict[str, Shape]:
    height, width = SIZE_RULE.size({LIMIT: _MAX_PIXELS}, *_SOURCE_SIZE, 32, _MERGED, 2)
    merged = (height // _MERGED) * (width // _MERGED)
    options = {"frames_per_step": 2, "max_frame_pixels": _MAX_PIXELS}
    return {
        LLAVA_ONEVISION: Shape(LLAVA_ONEVISION, TEXTS["7b"], SIGLIP["7b"], 729, 196),
        LLAVA_VIDEO: Shape(LLAVA_VIDEO, TEXTS["7b"], SIGLIP["7b"], 729, 169, newlines=13),
        QWEN2_5_VL: Shape(QWEN2_5_VL, TEXTS["7b"], QWEN["7b"], 4 * merged, merged, **options),
    }


KNOWN = _known()
_ALIASES = {
    "llava-onevision": LLAVA_ONEVISION,
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": LLAVA_ONEVISION,
    "llava-video": LLAVA_VIDEO,
    "qwen2.5-vl": QWEN2_5_VL,
}


def shape_of(model: str) -> Shape:
    """The shape of the checkpoint in a folder, of the embedded model, or of one of the paper's models by its hub id.

    >>> shape_of("tangovlm-tiny").text.layers, shape_of("Qwen/Qwen2.5-VL-7B-Instruct").tokens_before(32)
    (4, 4032)

    Raises
    ------
    InputError: a folder without a usable config.json, or an unknown name.
    """
    if model == TINY:
        return _read(model, BUILTIN)
    folder = Path(model).expanduser()
    if folder.is_dir():
        return _read(model, folder)
    known = KNOWN.get(_ALIASES.get(model, model))
    if known is None:
        raise InputError(
            f"--model {model}: there is no such folder, and the shape of this model is not known here: download the "
            f"checkpoint and give its folder, or name one of {', '.join([TINY, *KNOWN])}"
        )
    return replace(known, model=model)


def _read(model: str, folder: Path) -> Shape:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return _from_config(model, config)
    except OSError as error:
        raise InputError(f"--model {folder} has no config.json: give the folder of a checkpoint") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"--model {folder}: its config.json does not describe a model that the tables support "
            f"(LLaVA-OneVision, LLaVA-Video, Qwen2.5-VL): {error!r}"
        ) from error


def _from_config(model: str, config: Mapping[str, Any]) -> Shape:
    text = _text(config.get("text_config") or config)
    size = 4 if str(config.get("dtype") or config.get("torch_dtype")) == "float32" else 2
    vision = config.get("vision_config")
    if vision is None:
        # A checkpoint in the format of LLaVA's authors names its vision tower without its shape.
        video = config.get("mm_spatial_pool_mode") == "average"
        tokens, newlines = (169, 13) if video else (196, 0)
        return Shape(model, text, SIGLIP["7b"], 729, tokens, newlines, dtype_bytes=size)
    if "depth" in vision:
        known = KNOWN[QWEN2_5_VL]
        tower = Tower(
            vision["hidden_size"], vision["intermediate_size"], vision["depth"], vision["num_heads"], mlp_matrices=3
        )
        return replace(known, model=model, text=text, tower=tower, dtype_bytes=size)
    side = vision["image_size"] // vision["patch_size"]
    tower = Tower(
        vision["hidden_size"],
        vision["intermediate_size"],
        vision["num_hidden_layers"] + 1 + config.get(Arg.FEATURE_LAYER, -1),
        vision["num_attention_heads"],
    )
    return Shape(model, text, tower, side**2, math.ceil(side / 2) ** 2, dtype_bytes=size)


def _text(config: Mapping[str, Any]) -> Text:
    return Text(
        config["hidden_size"],
        config["intermediate_size"],
        config["num_hidden_layers"],
        config["num_attention_heads"],
        config["num_key_value_heads"],
        config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings")),
    )
