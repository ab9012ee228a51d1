"""Published configs at their real size on the meta device: what the families rely on is there, and no weight is."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from tangovlm import registry
from tangovlm.checkpoints import llava_original as original
from tangovlm.models.common.layout import Grid
from tangovlm.models.llava_onevision import LlavaOnevision
from tangovlm.models.llava_video import LlavaVideo, LlavaVideoForConditionalGeneration
from tangovlm.tokens import Selection

PUBLISHED = Path(__file__).parent / "published"
# Hub id to hidden size, layers, heads, key heads and inner size of the text model, rows of its embedding.
STOCK = {
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": (896, 24, 14, 2, 4864, 152000),
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": (3584, 28, 28, 4, 18944, 152128),
    "llava-hf/llava-onevision-qwen2-72b-ov-hf": (8192, 80, 64, 8, 29568, 152128),
}
ORIGINAL = ("lmms-lab/LLaVA-Video-7B-Qwen2", "lmms-lab/llava-onevision-qwen2-7b-ov")
SIZES_7B = (3584, 28, 28, 4, 18944, 152064)


def published(hub_id: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((PUBLISHED / f"{hub_id.replace('/', '--')}.json").read_text())
    return config


def on_meta(model_class: Any, config: Any) -> Any:
    with torch.device("meta"):
        return model_class(config).eval()


def converted(hub_id: str) -> Any:
    """The model that `tangovlm.load` would fill with an original checkpoint's weights."""
    conversion = original.convert(published(hub_id), hub_id)
    stock = {"LlavaVideoForConditionalGeneration": LlavaVideoForConditionalGeneration}
    model_class = stock.get(conversion.architecture, LlavaOnevisionForConditionalGeneration)
    return on_meta(model_class, LlavaOnevisionConfig(**conversion.fields))


@pytest.fixture(scope="module")
def llava_video() -> Any:
    return converted(ORIGINAL[0])


@pytest.fixture(scope="module")
def onevision() -> Any:
    config = LlavaOnevisionConfig.from_dict(published("llava-hf/llava-onevision-qwen2-7b-ov-hf"))
    return on_meta(LlavaOnevisionForConditionalGeneration, config)


def shape(module: Any, name: str) -> tuple[int, ...]:
    return tuple(module.get_parameter(name).shape)


def check_text(model: Any, hidden: int, layers: int, heads: int, key_heads: int, inner: int, rows: int) -> None:
    text = model.get_decoder()
    assert len(text.layers) == layers
    assert shape(text, "embed_tokens.weight") == shape(model, "lm_head.weight") == (rows, hidden)
    assert shape(text, "norm.weight") == (hidden,)
    for layer in (text.layers[0], text.layers[-1]):
        assert shape(layer, "self_attn.q_proj.weight") == (hidden, hidden)
        assert shape(layer, "self_attn.k_proj.weight") == (hidden * key_heads // heads, hidden)
        assert shape(layer, "mlp.up_proj.weight") == (inner, hidden)


def check_tower(model: Any, hidden: int) -> None:
    """SigLIP-so400m without its last layer and its head, and the projector."""
    tower = LlavaOnevision(model).tower
    assert len(tower.encoder.layers) == 26
    assert not hasattr(tower, "head")
    assert shape(tower, "post_layernorm.weight") == (1152,)
    assert shape(tower, "embeddings.position_embedding.weight") == (729, 1152)
    attention = tower.encoder.layers[-1].self_attn
    assert attention.num_heads == 16
    assert shape(attention, "q_proj.weight") == shape(attention, "k_proj.weight") == (1152, 1152)
    projector = model.model.multi_modal_projector
    assert shape(projector, "linear_1.weight") == (hidden, 1152)
    assert shape(projector, "linear_2.weight") == (hidden, hidden)
    assert shape(model.model, "image_newline") == (hidden,)


@pytest.mark.parametrize("hub_id", STOCK)
def test_llava_onevision_of_every_size(hub_id: str) -> None:
    config = LlavaOnevisionConfig.from_dict(published(hub_id))
    model = on_meta(LlavaOnevisionForConditionalGeneration, config)
    assert registry.family_for(published(hub_id)["architectures"][0]) is registry.family_for(model) is LlavaOnevision
    assert hub_id in LlavaOnevision.checkpoints
    check_tower(model, STOCK[hub_id][0])
    check_text(model, *STOCK[hub_id])
    assert (config.image_token_index, config.video_token_index) == (151646, 151647)
    assert config.text_config.max_position_embeddings == 32768


@pytest.mark.parametrize("hub_id", ORIGINAL)
def test_original_checkpoints(hub_id: str) -> None:
    assert published(hub_id)["architectures"] == [original.ARCHITECTURES[0]]
    model = converted(hub_id)
    check_tower(model, 3584)
    check_text(model, *SIZES_7B)
    rope = model.config.text_config.to_dict()
    assert 1e6 in (rope.get("rope_theta"), (rope.get("rope_parameters") or {}).get("rope_theta"))
    assert model.config.text_config.max_position_embeddings == 32768
    # The placeholders' ids behind the last of Qwen2's tokenizer are spare rows.
    assert len(model.get_input_embeddings().weight) > 151647
    # The numbers of SigLIP's processor in the authors' code; 3 is PIL's bicubic.
    half = [0.5, 0.5, 0.5]
    pixels = {"size": {"height": 384, "width": 384}, "image_mean": half, "image_std": half, "resample": 3}
    assert original.convert(published(hub_id), hub_id).pixels == pixels


def test_what_kind_the_original_checkpoints_are() -> None:
    assert isinstance(converted(ORIGINAL[0]), LlavaVideoForConditionalGeneration)
    assert registry.family_for(converted(ORIGINAL[0])) is LlavaVideo
    assert registry.family_for(converted(ORIGINAL[1])) is LlavaOnevision
    assert ORIGINAL[0] in LlavaVideo.checkpoints
    assert converted(ORIGINAL[0]).config.add_time_instruction is True


# --- token counts -----------------------------------------------------------------------------------------------------


def pixels(frames: int) -> Tensor:
    return torch.empty(1, frames, 3, 384, 384, device="meta")


@torch.no_grad()
def test_tokens_of_llava_onevision(onevision: Any) -> None:
    family = LlavaOnevision(onevision)
    (grid,) = family.layout.grids(pixels(32))
    assert grid == Grid(32, 14, 14)
    assert (grid.tokens, family.layout.feature_count(grid)) == (6272, 6273)
    assert family.signals.sinks(grid) == (28, 27, 41, 169, 11, 12)
    rows = onevision.model.get_video_features(pixels(1), return_dict=True).pooler_output
    # Older releases put the newline behind the features later.
    assert tuple(rows.shape) in {(1, 197, 3584), (1, 196, 3584)}
    assert LlavaOnevision.default_frames == 32


@torch.no_grad()
def test_tokens_of_llava_video(llava_video: Any) -> None:
    family = LlavaVideo(llava_video)
    (grid,) = family.layout.grids(pixels(64))
    assert grid == Grid(64, 13, 13)
    assert (grid.tokens, family.layout.feature_count(grid)) == (10816, 64 * 182)
    assert family.signals.sinks(grid) == (26, 157, 11)
    rows = llava_video.model.get_video_features(pixels(2), return_dict=True).pooler_output
    assert tuple(rows.shape) == (1, 2 * 182, 3584)
    assert LlavaVideo.default_frames == 64
    # A tenth of the tokens, in as few rows as they fit: their newlines are all that comes beside them.
    indices = torch.arange(1082)
    selection = Selection(indices, torch.empty(1082, 1), torch.full((64, 13, 13), -1), (64,))
    assert int(family.layout.kept_features(selection, grid).sum()) == 1082 + 84


# --- names of weights -------------------------------------------------------------------------------------------------


def linear(name: str, wide: int, narrow: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": (wide, narrow)}
    return shapes | ({f"{name}.bias": (wide,)} if bias else {})


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def original_weights(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes in the authors' files, by the structure of Qwen2, SigLIP and what is between them."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    keys = hidden * config["num_key_value_heads"] // config["num_attention_heads"]
    rows = (config["vocab_size"], hidden)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": rows, "lm_head.weight": rows}
    shapes |= {"model.norm.weight": (hidden,), "model.image_newline": (hidden,)}
    for number in range(config["num_hidden_layers"]):
        layer = f"model.layers.{number}"
        shapes |= {f"{layer}.{name}_layernorm.weight": (hidden,) for name in ("input", "post_attention")}
        for name, width in (("q", hidden), ("k", keys), ("v", keys)):
            shapes |= linear(f"{layer}.self_attn.{name}_proj", width, hidden)
        shapes |= linear(f"{layer}.self_attn.o_proj", hidden, hidden, bias=False)
        for name, wide, narrow in (("gate", inner, hidden), ("up", inner, hidden), ("down", hidden, inner)):
            shapes |= linear(f"{layer}.mlp.{name}_proj", wide, narrow, bias=False)
    shapes |= linear("model.mm_projector.0", hidden, 1152) | linear("model.mm_projector.2", hidden, hidden)
    tower = "model.vision_tower.vision_tower.vision_model"
    shapes[f"{tower}.embeddings.patch_embedding.weight"] = (1152, 3, 14, 14)
    shapes[f"{tower}.embeddings.patch_embedding.bias"] = (1152,)
    shapes[f"{tower}.embeddings.position_embedding.weight"] = (729, 1152)
    for number in range(26):
        layer = f"{tower}.encoder.layers.{number}"
        shapes |= norm(f"{layer}.layer_norm1", 1152) | norm(f"{layer}.layer_norm2", 1152)
        for name in ("q", "k", "v", "out"):
            shapes |= linear(f"{layer}.self_attn.{name}_proj", 1152, 1152)
        shapes |= linear(f"{layer}.mlp.fc1", 4304, 1152) | linear(f"{layer}.mlp.fc2", 1152, 4304)
    return shapes | norm(f"{tower}.post_layernorm", 1152)


def renamed(name: str) -> str:
    for pattern, replacement in original.KEY_MAPPING.items():
        name = re.sub(pattern, replacement, name)
    return name


@pytest.mark.parametrize("hub_id", ORIGINAL)
def test_names_of_original_weights_map_one_to_one(hub_id: str) -> None:
    theirs = original_weights(published(hub_id))
    ours = {name: tuple(parameter.shape) for name, parameter in converted(hub_id).state_dict().items()}
    assert Counter(map(renamed, theirs)).most_common(1)[0][1] == 1
    assert {renamed(name): size for name, size in theirs.items()} == ours
    assert len(theirs) == 4 + 28 * 12 + 4 + 3 + 26 * 16 + 2


def test_one_pattern_at_most_fits_a_name() -> None:
    for name in original_weights(published(ORIGINAL[0])):
        assert sum(re.search(pattern, name) is not None for pattern in original.KEY_MAPPING) <= 1
        assert renamed(renamed(name)) == renamed(name)


# --- Qwen2.5-VL -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def qwen() -> Any:
    config = Qwen2_5_VLConfig.from_dict(published("Qwen/Qwen2.5-VL-7B-Instruct"))
    return on_meta(Qwen2_5_VLForConditionalGeneration, config)


def test_modules_of_qwen2_5_vl(qwen: Any) -> None:
    visual = qwen.model.visual
    assert len(visual.blocks) == 32
    assert shape(visual, "blocks.31.attn.qkv.weight") == (3 * 1280, 1280)
    assert visual.blocks[-1].attn.num_heads == 16
    # The last layer attends to whole steps, not to windows.
    assert 31 in visual.fullatt_block_indexes
    assert isinstance(visual.merger, nn.Module)
    assert shape(visual, "merger.mlp.2.weight") == (3584, 4 * 1280)
    check_text(qwen, *SIZES_7B)
    assert qwen.config.video_token_id == 151656


def test_tokens_of_qwen2_5_vl(qwen: Any) -> None:
    family = registry.family_for(qwen)(qwen)
    assert family.name == "qwen2.5-vl"
    # 32 frames of 448 x 448 pixels: 16 steps of 32 x 32 patches.
    (grid,) = family.layout.grids(None, torch.tensor([[16, 32, 32]]))
    assert grid == Grid(16, 16, 16)
    assert family.layout.feature_count(grid) == grid.tokens == 4096
    assert (family.patch_size, family.merge_size, family.layout.frames_per_step, family.heads) == (14, 2, 2, 16)
    raster = family.token_order(torch.tensor([[2, 32, 32]]))
    assert torch.equal(raster.sort().values, torch.arange(2 * 256))
    assert not family.signals.sinks(grid)
