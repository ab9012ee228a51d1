"""Models spread over devices by accelerate: weights that are on the meta device until a module runs, or moved later."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlavaOnevisionForConditionalGeneration

import tangovlm
from tangovlm.errors import ModelError
from tangovlm.machine.devices import device_of, weights_of
from tangovlm.models.common.layout import Clip, Grid
from tangovlm.models.common.signals import Signals
from tangovlm.models.llava_onevision import LlavaOnevision
from tests.session.test_versions import make_qwen, qwen_inputs
from tests.support.tiny_models import make_model, make_videos, pad_left, placeholders, state_of, words

accelerate = pytest.importorskip("accelerate")

CPU, META = torch.device("cpu"), torch.device("meta")
FRAMES = 3
GREEDY: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False}
# A module that reads the weights of its submodules, which accelerate must be configured for.
POOLING = {"preload_module_classes": ["SiglipMultiheadAttentionPoolingHead"]}
METHODS = {
    "tango": {"retention": 0.3},
    "fastvid": {"retention": 0.3},
    "fastv": {"retention": 0.5},
    "pyramiddrop": {"retention": 0.5},
    "sparsevlm": {"retention": 0.5},
    "flexselect": {"retention": 0.5, "frames_per_group": 2},
}


def inputs_for(model: Any) -> dict[str, Any]:
    row = [*words(3, 1), *placeholders(model, FRAMES), *words(5, 2)]
    return pad_left([row]) | {"pixel_values_videos": make_videos(model, 1, FRAMES)}


def answers(model: Any, **options: Any) -> list[Any]:
    """Answers of the model without and with each method."""
    inputs, said = inputs_for(model), []
    said.append(model.generate(**inputs, **GREEDY).tolist())
    for name, params in METHODS.items():
        with tangovlm.attach(model, tangovlm.method(name, **params), **options):
            said.append(model.generate(**inputs, **GREEDY).tolist())
    return said


@pytest.fixture(scope="module")
def wanted() -> list[Any]:
    said = answers(make_model(layers=4))
    assert len({str(one) for one in said}) > 3
    return said


def offload(part: Any) -> None:
    accelerate.cpu_offload(part, execution_device=CPU, **POOLING)


PARTS: dict[str, Callable[[Any], list[Any]]] = {
    "tower": lambda model: [model.model.vision_tower],
    "text model": lambda model: [model.model.language_model],
    "all": lambda model: [
        model.model.vision_tower,
        model.model.multi_modal_projector,
        model.model.language_model,
        model.lm_head,
    ],
}


@pytest.mark.parametrize("parts", PARTS)
def test_offloaded_to_memory(parts: str, wanted: list[Any]) -> None:
    model = make_model(layers=4)
    for part in PARTS[parts](model):
        offload(part)
        assert {weight.device for weight in part.parameters()} == {META}
    # On first use, transformers itself installs hooks for hidden states.
    model.generate(**inputs_for(model), **GREEDY)
    before = state_of(model)
    assert answers(model) == wanted
    assert state_of(model) == before
    assert LlavaOnevision(model).device == CPU


def test_a_packed_tower_that_is_offloaded() -> None:
    models = [make_qwen(), make_qwen()]
    for part in (models[1].model.visual, models[1].model.language_model):
        offload(part)
    said = []
    for model in models:
        for name in ("tango", "visionzip", "fastv"):
            with tangovlm.attach(model, tangovlm.method(name, retention=0.5 if name == "fastv" else 0.3)):
                said.append(model.generate(**qwen_inputs(), **GREEDY).tolist())
    assert said[:3] == said[3:]


def test_offloaded_to_disk(tmp_path: Path) -> None:
    """As `device_map="auto"` does for weights that fit on no device; the pooling head is read from a file."""
    model, head = make_model(head=False, layers=4), make_model().model.vision_tower.state_dict()
    published = {name: value for name, value in head.items() if name.startswith(("head.", "post_layernorm."))}
    save_file({f"vision_model.{name}": value for name, value in published.items()}, tmp_path / "head.safetensors")
    options = {"head_weights": tmp_path / "head.safetensors"}
    wanted = answers(model, **options)
    model.save_pretrained(tmp_path / "model")
    parts = ["model.vision_tower", "model.multi_modal_projector", "model.language_model", "lm_head"]
    places = dict.fromkeys(parts, "disk") | {"model.image_newline": "cpu"}
    loaded = LlavaOnevisionForConditionalGeneration.from_pretrained(
        tmp_path / "model", device_map=places, offload_folder=tmp_path / "weights"
    )
    assert sum(weight.is_meta for weight in loaded.parameters()) > 10
    assert answers(loaded.eval(), **options) == wanted


@pytest.mark.parametrize("preload", [True, False])
def test_weights_that_are_offloaded(preload: bool) -> None:
    head = make_model().model.vision_tower.head
    wanted = {name: value.clone() for name, value in head.state_dict().items()}
    accelerate.cpu_offload(head, execution_device=CPU, **(POOLING if preload else {}))
    found = weights_of(head)
    assert set(found) == set(wanted)
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    assert all(weight.is_meta for weight in head.parameters())
    assert device_of(head) == CPU


def test_weights_that_were_not_loaded() -> None:
    model = make_model().to("meta")
    with pytest.raises(ModelError, match=r"weight .* is on the meta device: load"):
        tangovlm.attach(model, tangovlm.Tango()).__enter__()


def test_signals_follow_the_features() -> None:
    """Signals are computed on another device than the features."""
    family, grid = LlavaOnevision(make_model()), Grid(2, 4, 4)
    signals = Signals(torch.rand(3, 4, 4), torch.rand(3, 5), [torch.rand(4, 4, 6)] * 3)
    seen: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tangovlm.models.common.family.VideoTokens", lambda **fields: seen.update(fields))
        family.video_tokens(torch.empty(33, 48, device="meta"), Clip(grid, 1), signals, None)
    for name, shape in {"saliency": (2, 4, 4), "frame_features": (2, 5), "keys": (2, 4, 4, 6)}.items():
        assert (seen[name].device, tuple(seen[name].shape)) == (META, shape)


def test_a_model_moved_after_its_head_was_read() -> None:
    model = make_model()
    family = LlavaOnevision(model)
    family.signals.prepare(frozenset({"saliency"}))
    on_cpu = family.head
    away = on_cpu.to(META)
    assert {tensor.device for tensor in (*away.weights.values(), away.folded)} == {META}
    assert on_cpu.to(CPU) is on_cpu
    # As if the model had been elsewhere when the head was read.
    pixels = make_videos(model, 1, FRAMES)
    family.head = PretendMoved(on_cpu)
    with torch.no_grad(), family.signals.observe(frozenset({"saliency"})) as signals:
        model.model.get_video_features(pixels, return_dict=True)
    assert family.head is on_cpu
    assert signals.saliency.shape == (FRAMES, 4, 4)


class PretendMoved:
    """A pooling head on another device, with a copy on the right one."""

    def __init__(self, head: Any) -> None:
        self._head = head

    def to(self, device: torch.device) -> Any:
        assert device == CPU
        return self._head
