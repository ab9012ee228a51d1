"""Checkpoints on disk as the tests of serving need them."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tangovlm.pipeline.load import BUILTIN


def embedded() -> Path:
    """The embedded model: a trained LLaVA-OneVision with a pooling head of its own."""
    return BUILTIN


def nested_names(source: Path, folder: Path) -> Path:
    """A copy whose vision tower has the names that vLLM's stock model reads."""
    shutil.copytree(source, folder)
    rename(folder, "vision_tower.", "vision_tower.vision_model.")
    return folder


def rename(folder: Path, before: str, after: str) -> None:
    """Give the weights of a checkpoint other names."""
    file = folder / "model.safetensors"
    weights = {name.replace(before, after, 1): weight.clone() for name, weight in load_file(file).items()}
    file.chmod(0o600)
    save_file(weights, file, metadata={"format": "pt"})


def sharpen(folder: Path, projections: float = 4.0, head: float = 5.0) -> None:
    """Make a random checkpoint notice positions and tokens: sharper attention, wider spread logits."""
    file = folder / "model.safetensors"
    weights: dict[str, torch.Tensor] = load_file(file)
    for name, weight in weights.items():
        if name.endswith(("q_proj.weight", "k_proj.weight")) and "vision" not in name:
            weights[name] = weight * projections
        if name.endswith("lm_head.weight"):
            weights[name] = weight * head
    save_file(weights, file, metadata={"format": "pt"})


def random_llava_onevision(folder: Path) -> Path:
    """As the embedded model, with random weights, no pooling head, and text heads that two devices can share."""
    from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

    source = embedded()
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    config = LlavaOnevisionConfig.from_pretrained(source)
    text = config.text_config
    text.hidden_size, text.num_attention_heads, text.num_key_value_heads = 256, 4, 2
    config.vision_config.vision_use_head = False
    config.tie_word_embeddings = text.tie_word_embeddings = False
    torch.manual_seed(0)
    LlavaOnevisionForConditionalGeneration(config).save_pretrained(folder)
    sharpen(folder)
    return folder


def random_llava_video(folder: Path) -> Path:
    """LLaVA-Video with 3 x 3 tokens a frame of 7 x 7 patches, one row and column left out, and its own head."""
    from transformers import LlavaOnevisionConfig

    from tangovlm.models.llava_video import LlavaVideoForConditionalGeneration

    source = embedded()
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    config = LlavaOnevisionConfig.from_pretrained(source)
    config.vision_config.patch_size = 16
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    torch.manual_seed(0)
    LlavaVideoForConditionalGeneration(config).save_pretrained(folder)
    sharpen(folder)
    return folder


def pooling_head(file: Path) -> Path:
    """The embedded model's pooling head, as a file of its own."""
    weights = load_file(embedded() / "model.safetensors")
    tower = {name.removeprefix("vision_tower."): weight for name, weight in weights.items() if "vision_tower." in name}
    wanted = {f"vision_model.{name}": weight for name, weight in tower.items() if name.startswith(("head.", "post_"))}
    save_file(wanted, file)
    return file
