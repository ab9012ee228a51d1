"""Stage 4 of the recipe: write a stock checkpoint directory, which `from_pretrained` loads."""

import json
from pathlib import Path

import torch
from transformers import GenerationConfig, LlavaOnevisionForConditionalGeneration, PreTrainedTokenizerFast

from .model import FRAMES, TOKENS_PER_FRAME
from .synthetic.world import SIDE
from .tokenizer import CHAT_TEMPLATE, END, IMAGE, PAD, VIDEO

WEIGHTS = Path(__file__).parent / "weights"
SECOND_WEIGHTS = WEIGHTS.with_name("weights-2")
_PIXELS = {
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"height": SIDE, "width": SIDE},
}


def export(
    model: LlavaOnevisionForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path = WEIGHTS,
    frames: int = FRAMES,
) -> None:
    """Write the checkpoint.

    Parameters
    ----------
    frames: number of frames that are sampled from a video by default.

    The weights are stored in float16 to halve the file. The config names float32, so that a stock load computes in
    float32: many CPUs have no fast 16-bit arithmetic.
    """
    end, pad = (int(tokenizer.convert_tokens_to_ids(token)) for token in (END, PAD))
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=pad, max_new_tokens=16)
    model.to(torch.float16).save_pretrained(folder)
    _edit(folder / "config.json", {"dtype": "float32"})
    tokenizer.save_pretrained(folder)
    video = {"video_processor_type": "LlavaOnevisionVideoProcessor", "num_frames": frames, **_PIXELS}
    image = {
        "image_processor_type": "LlavaOnevisionImageProcessor",
        "image_grid_pinpoints": [[SIDE, SIDE]],
        "do_pad": True,
        **_PIXELS,
    }
    processor = {
        "processor_class": "LlavaOnevisionProcessor",
        "image_token": IMAGE,
        "video_token": VIDEO,
        "num_image_tokens": 4 * TOKENS_PER_FRAME,
        "vision_feature_select_strategy": "full",
        "vision_aspect_ratio": "anyres_max_1",
    }
    for name, content in (
        ("video_preprocessor_config.json", video | {"processor_class": "LlavaOnevisionProcessor"}),
        ("preprocessor_config.json", image | {"processor_class": "LlavaOnevisionProcessor"}),
        ("processor_config.json", processor),
    ):
        (folder / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE + "\n")


def _edit(path: Path, changes: dict[str, object]) -> None:
    content = json.loads(path.read_text())
    for part in (content, content["text_config"], content["vision_config"]):
        part.update(changes)
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
