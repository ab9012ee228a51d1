"""Tiny random checkpoints in the format of LLaVA's authors, and the same in the stock format."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlavaOnevisionForConditionalGeneration, Qwen2Tokenizer

from tangovlm.checkpoints.llava_original import Tower
from tangovlm.models.llava_video import LlavaVideoForConditionalGeneration
from tangovlm.selfcheck.twins.common.parts import VOCABULARY
from tests.support.tiny_models import make_model

SIDE = 7
TOWER = "tests/tiny-siglip"
# Byte-level characters as in Qwen2's vocabulary ("\u0120" a space, "\u010a" a line break), without any merges.
CHARACTERS = [*"abcdefghijklmnopqrstuvwxyz0123456789.,Y?", "\u0120", "\u010a"]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PAD, START, END = range(len(CHARACTERS), len(CHARACTERS) + 3)
IMAGE, VIDEO = END + 1, END + 2
SIZE = {"height": 7 * SIDE, "width": 7 * SIDE}
# The original processor uses these values, whatever the files of a checkpoint say.
PIXELS = {"size": SIZE, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3}

_TEXT = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
    "vocab_size",
    "hidden_act",
    "tie_word_embeddings",
)


def tower() -> Tower:
    """The entry of the table of vision encoders that the tiny checkpoints refer to."""
    vision = make_model(head=False, side=SIDE).config.vision_config
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size")
    return Tower({name: getattr(vision, name) for name in names}, PIXELS)


def make(video: bool, *, tied: bool = False, seed: int = 0) -> Any:
    """A stock model with the placeholders of the tokenizer of `write_original`."""
    base = make_model(head=False, side=SIDE, seed=seed)
    base.config.image_token_index, base.config.video_token_index = IMAGE, VIDEO
    model = (LlavaVideoForConditionalGeneration if video else LlavaOnevisionForConditionalGeneration)(base.config)
    model.load_state_dict(base.state_dict())
    if tied:
        model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = True
        model.tie_weights()
    return model.eval()


def original_name(name: str) -> str:
    """The authors' name of a weight of the stock model."""
    for stock, theirs in (
        ("model.vision_tower.", "model.vision_tower.vision_tower.vision_model."),
        ("model.multi_modal_projector.linear_1.", "model.mm_projector.0."),
        ("model.multi_modal_projector.linear_2.", "model.mm_projector.2."),
        ("model.language_model.", "model."),
    ):
        if name.startswith(stock):
            return theirs + name.removeprefix(stock)
    return name


def original_config(model: Any, video: bool) -> dict[str, Any]:
    """The authors' config.json, with fields that are not used here; prompts have no time instruction."""
    text = model.config.text_config
    config: dict[str, Any] = {
        "architectures": ["LlavaQwenForCausalLM"],
        "model_type": "llava",
        "image_aspect_ratio": "anyres_max_9",
        "image_grid_pinpoints": [[49, 49], [49, 98]],
        "mm_hidden_size": model.config.vision_config.hidden_size,
        "mm_patch_merge_type": "spatial_unpad",
        "mm_projector_type": "mlp2x_gelu",
        "mm_resampler_type": None,
        "mm_spatial_pool_mode": "bilinear",
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": TOWER,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tokenizer_model_max_length": 4096,
        "torch_dtype": "bfloat16",
        "use_mm_proj": True,
    }
    config |= {name: getattr(text, name) for name in _TEXT}
    return config | ({"mm_newline_position": "grid", "add_time_instruction": False} if video else {})


def write_tokenizer(folder: Path) -> None:
    """The files of Qwen2's tokenizer as the authors publish them, without placeholders."""
    assert VIDEO < VOCABULARY
    (folder / "vocab.json").write_text(json.dumps({character: place for place, character in enumerate(CHARACTERS)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    added = {str(PAD + place): {"content": name, "special": True} for place, name in enumerate(SPECIAL)}
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": added,
        "additional_special_tokens": SPECIAL[1:],
        "eos_token": SPECIAL[2],
        "pad_token": SPECIAL[0],
        "bos_token": None,
        "unk_token": None,
        "chat_template": "{{ messages }}",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def tensors(model: Any) -> dict[str, Tensor]:
    """The weights under the authors' names; a tied head is not stored."""
    state = {original_name(name): value.clone() for name, value in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    return state


def write_original(folder: Path, model: Any, video: bool, **changes: Any) -> None:
    """A checkpoint as the authors publish it; `changes` of its config."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors(model), folder / "model.safetensors", metadata={"format": "pt"})
    write_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(original_config(model, video) | changes))
    sampling = {"do_sample": True, "repetition_penalty": 1.05, "temperature": 0.7, "top_p": 0.8, "eos_token_id": [END]}
    (folder / "generation_config.json").write_text(json.dumps(sampling))
    # Not read.
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 14, "width": 14}, "num_frames": 2}))


def write_stock(folder: Path, model: Any, template: str) -> None:
    """The same model as saved by `save_pretrained`, with the files of a processor."""
    model.generation_config.eos_token_id = [END]
    model.save_pretrained(folder)
    write_tokenizer(folder)
    words = Qwen2Tokenizer.from_pretrained(folder)
    words.add_tokens(["<image>", "<video>"], special_tokens=True)
    words.save_pretrained(folder)
    (folder / "video_preprocessor_config.json").write_text(json.dumps(PIXELS))
    (folder / "chat_template.jinja").write_text(template)


def pooling_head(model: Any, seed: int = 4) -> dict[str, Tensor]:
    """A pooling head of the encoder's width, for `head_weights`."""
    donor = make_model(head=True, side=SIDE, seed=seed).model.vision_tower.state_dict()
    assert donor["head.probe"].shape[-1] == model.config.vision_config.hidden_size
    wanted = {name: value.clone() for name, value in donor.items() if name.startswith(("head.", "post_layernorm."))}
    return {f"vision_model.{name}": torch.clone(value) for name, value in wanted.items()}
