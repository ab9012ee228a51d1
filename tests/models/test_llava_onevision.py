"""Signals of the tower against the eager model's own attention weights and head."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tangovlm.errors import ModelError
from tangovlm.models.common.layout import Clip, Grid, Prompt
from tangovlm.models.llava_onevision import LlavaOnevision
from tests.support.tiny_models import make_model, make_videos

NEEDS = frozenset({"saliency", "frame_features", "keys"})


def observe(family: LlavaOnevision, videos: torch.Tensor, needs: frozenset[str] = NEEDS) -> Any:
    family.signals.prepare(needs)
    with torch.no_grad(), family.signals.observe(needs) as signals:
        family.encoder.get_video_features(videos, return_dict=True)
    return signals


def pooled(values: torch.Tensor, model: Any) -> torch.Tensor:
    """``(F, P, C)`` through the model's own pooling of features."""
    return model.model.apply_pooling(values)


@pytest.fixture(params=[8, 5])
def model(request: pytest.FixtureRequest) -> Any:
    return make_model(attention="eager", side=request.param)


@torch.no_grad()
def truth(model: Any, videos: torch.Tensor) -> dict[str, torch.Tensor]:
    tower = model.model.vision_tower
    frames = videos.flatten(0, 1)
    output = tower(frames, output_attentions=True, output_hidden_states=True)
    hidden = output.last_hidden_state
    probe = tower.head.probe.expand(len(frames), -1, -1)
    layer = tower.encoder.layers[-1]
    keys = layer.self_attn.k_proj(layer.layer_norm1(output.hidden_states[-2]))
    return {
        "p-attn": tower.head.attention(probe, hidden, hidden, need_weights=True)[1][:, 0],
        "attn": output.attentions[-1].mean(dim=(1, 2)),
        "frame_features": output.pooler_output,
        "keys": keys.unflatten(-1, (4, 8)).mean(2),
    }


@pytest.mark.parametrize("saliency", ["p-attn", "attn"])
def test_saliency(model: Any, saliency: str) -> None:
    videos = make_videos(model, 2, 3)
    signals = observe(LlavaOnevision(model, saliency=saliency), videos)
    wanted = truth(model, videos)
    scores = pooled(wanted[saliency][..., None], model)
    torch.testing.assert_close(signals.saliency.flatten(1), scores[..., 0], atol=1e-6, rtol=0)
    torch.testing.assert_close(signals.frame_features, wanted["frame_features"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(signals.keys.flatten(1, 2), pooled(wanted["keys"], model), atol=1e-5, rtol=1e-5)


def test_only_what_is_needed_is_computed(model: Any) -> None:
    videos = make_videos(model, 1, 2)
    none = observe(LlavaOnevision(model), videos, frozenset({"timestamps"}))
    assert none.saliency is none.frame_features is none.keys is None
    some = observe(LlavaOnevision(model), videos, frozenset({"saliency"}))
    assert some.saliency is not None
    assert some.frame_features is some.keys is None


def test_attention_implementation_is_left_alone() -> None:
    model = make_model(attention="sdpa")
    observe(LlavaOnevision(model, saliency="attn"), make_videos(model, 1, 2))
    assert model.config.vision_config._attn_implementation == "sdpa"


# --- head weights -----------------------------------------------------------------------------------------------------


def head_tensors(model: Any, prefix: str = "vision_model.") -> dict[str, torch.Tensor]:
    state = model.model.vision_tower.state_dict()
    wanted = {name: value.clone() for name, value in state.items() if name.startswith(("head.", "post_layernorm."))}
    return {prefix + name: value for name, value in wanted.items()} | {"text_model.other": torch.zeros(2)}


def headless_twin(model: Any) -> Any:
    """The same model, its head cut off and its last norm changed as by fine-tuning."""
    twin = make_model(head=False)
    twin.load_state_dict(model.state_dict(), strict=False)
    twin.model.vision_tower.post_layernorm.weight.data.normal_()
    return twin


@pytest.mark.parametrize("layout", ["file", "bare names", "directory", "shards"])
def test_head_weights_from_a_published_checkpoint(tmp_path: Path, layout: str) -> None:
    model = make_model()
    twin, videos = headless_twin(model), make_videos(model, 1, 3)
    tensors = head_tensors(model, "" if layout == "bare names" else "vision_model.")
    source = tmp_path / "model.safetensors"
    if layout == "shards":
        names = sorted(tensors)
        files = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
        for file, part in files.items():
            save_file({name: tensors[name] for name in part}, tmp_path / file)
        index = {"weight_map": {name: file for file, part in files.items() for name in part}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        save_file(tensors, source)
    given = tmp_path if layout in ("directory", "shards") else source
    got = observe(LlavaOnevision(twin, head_weights=given), videos, frozenset({"saliency", "frame_features"}))
    wanted = observe(LlavaOnevision(model), videos, frozenset({"saliency", "frame_features"}))
    torch.testing.assert_close(got.saliency, wanted.saliency, atol=1e-6, rtol=0)
    torch.testing.assert_close(got.frame_features, wanted.frame_features, atol=1e-5, rtol=0)


def test_given_head_weights_come_before_the_own_head(tmp_path: Path) -> None:
    model, other = make_model(seed=0), make_model(seed=5)
    save_file(head_tensors(other), tmp_path / "head.safetensors")
    videos = make_videos(model, 1, 2)
    own = observe(LlavaOnevision(model), videos)
    given = observe(LlavaOnevision(model, head_weights=tmp_path / "head.safetensors"), videos)
    assert not torch.allclose(own.saliency, given.saliency, atol=1e-3)


def test_bad_head_weights(tmp_path: Path) -> None:
    model = make_model(head=False)

    def error(source: Any) -> str:
        with pytest.raises(ModelError) as caught:
            LlavaOnevision(model, head_weights=source).signals.prepare(NEEDS)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    (tmp_path / "text.safetensors").write_text("not tensors at all")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    wide = {
        name: value.new_zeros(tuple(2 * n if n == 32 else n for n in value.shape))
        for name, value in head_tensors(make_model()).items()
    }
    save_file(wide, tmp_path / "wide.safetensors")
    assert "cannot read" in error(tmp_path / "text.safetensors")
    assert "has no vision_model.post_layernorm.weight" in error(tmp_path / "other.safetensors")
    assert "is 64 wide but the tower 32" in error(tmp_path / "wide.safetensors")
    assert "has no model.safetensors" in error(tmp_path)
    assert "head_weights=FILE" in error(tmp_path / "missing.safetensors")
    assert "no published one is 32 wide" in error(None)


def test_published_head_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    from tangovlm.checkpoints import head_weights

    monkeypatch.setattr(head_weights, "_PUBLISHED_WIDTH", 32)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"model\.safetensors of google/siglip-so400m-patch14-384.*--head-weights"):
        LlavaOnevision(make_model(head=False)).signals.prepare(NEEDS)


def test_towers_of_other_kinds_are_refused() -> None:
    model = make_model()
    del model.model.vision_tower.post_layernorm
    with pytest.raises(ModelError, match="only SigLIP towers"):
        LlavaOnevision(model).signals.prepare(NEEDS)


# --- grids ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_streamed_pixels_do_not_depend_on_the_default_dtype() -> None:
    model = make_model(side=5)
    family, config = LlavaOnevision(model), {"size": {"height": 35, "width": 35}}
    frames = torch.arange(4 * 3 * 40 * 30).remainder(256).to(torch.uint8).view(4, 3, 40, 30)
    wanted = family.prompt.pixels(frames, config)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with family.prompt.streamed(4, config, lambda start, stop: frames[start:stop]) as pixels:
            for start in (0, 2):
                model.model.vision_tower(pixels[0, start : start + 2])
    finally:
        torch.set_default_dtype(torch.float32)
    assert pixels.dtype == torch.float32
    assert torch.equal(pixels, wanted)


def test_grids() -> None:
    model = make_model(side=5)
    clips = LlavaOnevision(model).layout.clips(Prompt(), make_videos(model, 2, 7))
    assert clips == [Clip(Grid(7, 3, 3), 0), Clip(Grid(7, 3, 3), 7)]
    assert clips[0].grid.tokens == 63


def test_sinks_are_known_for_the_released_grid_only() -> None:
    family = LlavaOnevision(make_model())
    assert family.signals.sinks(Grid(1, 14, 14)) == (28, 27, 41, 169, 11, 12)
    assert family.signals.sinks(Grid(1, 8, 8)) is None
