"""Norms of tokens beside the hidden states of stock encoders, for every family."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tangovlm import registry
from tangovlm.errors import InputError
from tangovlm.inspection import norms
from tangovlm.inspection.clips import ClipSource, draw_clip
from tangovlm.inspection.output import save, write_csv
from tangovlm.inspection.recording import TokenRecorder, record_tokens
from tangovlm.models.common.signals import ReadPoint
from tangovlm.pipeline.load import VideoLLM
from tangovlm.selfcheck.twins.common.parts import RandomWords, Video
from tangovlm.video import FrameSampling
from tests.inspection.conftest import FRAMES, pooling_head_saliency
from tests.session.test_generate_families import HOSTS
from tests.support.tiny_models import state_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

ROW = (RandomWords(3, 1), Video(4, 2), RandomWords(4, 3))


def hidden_after(layer: nn.Module, found: list[Tensor]) -> Any:
    def hook(_module: nn.Module, _args: Any, output: Any) -> None:
        found.append((output[0] if isinstance(output, tuple) else output).detach().double())

    return layer.register_forward_hook(hook)


@pytest.mark.parametrize("name", HOSTS)
def test_values_of_every_family_are_on_its_grid(name: str) -> None:
    """The norm of a token is the mean of those of its patches: each is found by its place, or by what it becomes."""
    host = HOSTS[name]()
    # Some twins run the tower for it.
    inputs = host.inputs([ROW])
    family: Any = registry.family_for(host.model)(host.model, saliency="attn")
    layers = norms.tower_layers(family)
    number = norms.saliency_layer(family, layers)
    collected: dict[str, list[Tensor]] = {"layer": []}
    outputs: list[Tensor] = []
    hooks = family.signals.value_hooks(
        collected, [ReadPoint("layer", layers[number - 1])], lambda hidden: hidden.float().norm(dim=-1)
    )
    handles = [hook.register() for hook in hooks] + [hidden_after(layers[number - 1], outputs)]
    (tokens,) = record_tokens(family, inputs, TokenRecorder("attn", frozenset({"saliency"})))
    for handle in handles:
        handle.remove()
    joined = family.signals.join(collected["layer"])
    found = torch.stack(joined) if isinstance(joined, list) else joined
    grid = (tokens.frames, tokens.height, tokens.width)
    assert tuple(found.shape) == grid
    (hidden,) = outputs
    plain = hidden.norm(dim=-1)
    if family.name.startswith("minicpm"):
        # Rows of patches over the whole frame.
        rows = math.isqrt(plain.numel() // found.numel())
        patches = plain.view(tokens.frames, tokens.height, rows, tokens.width, rows)
        wanted = patches.mean(dim=(2, 4))
    elif hasattr(family, "merge_size"):
        of_group = plain.flatten().view(-1, family.merge_size**2).mean(dim=1)
        order = torch.arange(len(of_group))
        if name in ("qwen2_5_vl", "qwen2_5_omni"):
            # Tokens are in window order: the one at a place is the group of patches that its feature was made of.
            made = family.tower.merger(hidden.float().flatten(0, -2))
            distance = torch.cdist(tokens.features.flatten(0, 2).double(), made.detach().double())
            order = distance.argmin(dim=1)
            assert distance.min(dim=1).values.max() < 1e-4
            assert order.tolist() != sorted(order.tolist())
        wanted = of_group[order].view(grid)
    elif family.name == "gemma-4":
        # Rows of patches over the whole frame, and padding behind them.
        pool = family.pool
        patches = plain[:, : tokens.height * tokens.width * pool**2]
        wanted = patches.view(-1, tokens.height, pool, tokens.width, pool).mean(dim=(2, 4))
    else:
        side = family.side
        factor = side // tokens.height
        patches = plain[:, plain.shape[1] - side**2 :].view(-1, side, side)
        patches = patches[:, : factor * tokens.height, : factor * tokens.width]
        wanted = patches.reshape(len(patches), tokens.height, factor, tokens.width, factor).mean(dim=(2, 4))
        assert side % factor == 0 or name == "llava_video"
    assert torch.allclose(found.double(), wanted, rtol=1e-4)


@pytest.fixture(scope="module")
def measured(llm: VideoLLM, two_clips: ClipSource) -> norms.TokenNorms:
    return norms.measure(llm, two_clips, sinks=(0, 63), block=2)


def test_layers_and_steps_of_the_embedded_model(measured: norms.TokenNorms, llm: VideoLLM, tmp_path: Path) -> None:
    tower = llm.model.model.vision_tower
    parts = {"input": tower.encoder.layers[1].layer_norm1, "self_attn": tower.encoder.layers[1].self_attn}
    wanted: dict[str, list[np.ndarray]] = {}
    saliency = []
    for seed in range(2):
        pixels = llm.family.prompt.pixels(draw_clip(llm, FRAMES, seed).pixels, llm.config)[0]
        seen: list[Tensor] = []
        handle = hidden_after(parts["self_attn"], seen)
        with torch.no_grad():
            states = tower(pixels, output_hidden_states=True).hidden_states
        handle.remove()
        values = {"input": states[0], **{str(layer): states[layer] for layer in range(1, 5)}, "self_attn": seen[0]}
        for name, hidden in values.items():
            patches = hidden.double().norm(dim=-1).view(-1, 8, 2, 8, 2)
            wanted.setdefault(name, []).append(patches.mean(dim=(2, 4)).numpy())
        saliency.append(pooling_head_saliency(llm, seed))
    assert list(measured.layers) == ["input", "1", "2", "3", "4"]
    assert list(measured.steps) == ["input", "layer_norm1", "self_attn", "layer_norm2", "mlp", "output"]
    joined = {name: np.concatenate(clips) for name, clips in wanted.items()}
    for name, found in measured.layers.items():
        np.testing.assert_allclose(found, joined[name], rtol=1e-4)
    np.testing.assert_allclose(measured.steps["self_attn"], joined["self_attn"], rtol=1e-4)
    np.testing.assert_allclose(measured.steps["input"], joined["1"], rtol=1e-4)
    np.testing.assert_allclose(measured.steps["output"], joined["2"], rtol=1e-4)
    write_csv(tmp_path / "rows.csv", measured.rows())
    rows = {(row["where"], row["point"], row["group"]): row for row in csv.DictReader((tmp_path / "rows.csv").open())}
    is_sink = np.zeros((8, 8), bool)
    is_sink[0, 0] = is_sink[7, 7] = True
    top = np.zeros((8, 64), bool)
    for frame, scores in enumerate(np.concatenate(saliency).reshape(8, 64)):
        top[frame, np.argsort(-scores)[:6]] = True
    groups = {
        "sink": joined["4"][:, is_sink],
        "other": joined["4"][:, ~is_sink],
        "top": joined["4"][top.reshape(8, 8, 8)],
        "rest": joined["4"][~top.reshape(8, 8, 8)],
    }
    for group, values in groups.items():
        row = rows["layer", "4", group]
        assert int(row["tokens"]) == values.size
        assert float(row["mean"]) == pytest.approx(values.mean(), rel=1e-4)
        assert float(row["sd"]) == pytest.approx(values.std(), rel=1e-3)
        assert float(row["q5"]) == pytest.approx(np.percentile(values, 5), rel=1e-4)
        assert float(row["q100"]) == pytest.approx(values.max(), rel=1e-4)
    assert ("step of layer 2", "mlp", "sink") in rows
    assert [row["group"] for row in measured.summary()] == ["sink", "other", "top", "rest"]
    save(tmp_path / "n.png", norms.draw(measured))
    assert (tmp_path / "n.png").stat().st_size > 10_000


def test_sinks_that_are_found(llm: VideoLLM, two_clips: ClipSource) -> None:
    none = norms.measure(llm, two_clips, threshold=1.0)
    assert (none.sinks, list(none.groups)) == ((), ["top", "rest"])
    assert any("no position is a sink" in note for note in none.notes)
    some = norms.measure(llm, two_clips, threshold=0.5)
    ranks = []
    for seed in range(2):
        saliency = pooling_head_saliency(llm, seed).reshape(FRAMES, 64)
        ranks.append((saliency[:, None, :] < saliency[:, :, None]).sum(axis=2) / 63)
    joined = np.concatenate(ranks)
    assert set(some.sinks) == set(np.flatnonzero(joined.mean(axis=0) - joined.std(axis=0) >= 0.5).tolist()) != set()
    assert any("fewer than 8 clips" in note for note in some.notes)


def test_the_model_is_left_as_it_was(llm: VideoLLM) -> None:
    source = ClipSource(sampling=FrameSampling(2), drawn=1)
    # The first run of a stock model installs hooks of transformers.
    norms.measure(llm, source)
    before = state_of(llm.model)
    norms.measure(llm, source)
    assert state_of(llm.model) == before


def test_refusals(llm: VideoLLM, two_clips: ClipSource) -> None:
    with pytest.raises(InputError, match="block is 9.*layers 1 to 4"):
        norms.measure(llm, two_clips, block=9)
    with pytest.raises(InputError, match="64"):
        norms.measure(llm, two_clips, sinks=(64,))
