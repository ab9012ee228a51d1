"""Half precision, 4-bit weights, and the inputs of flash attention."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from transformers import LlavaOnevisionForConditionalGeneration
from transformers.masking_utils import AttentionMaskInterface, flash_attention_mask
from transformers.modeling_utils import AttentionInterface

import tangovlm
from tangovlm import budget, registry
from tangovlm.errors import ModelError
from tangovlm.selfcheck.twins.common.norms import Norms
from tangovlm.tokens import VideoTokens
from tests.session.test_versions import make_qwen, qwen_inputs
from tests.support.tiny_models import make_model, make_videos, pad_left, placeholders, words

FRAMES, COUNT = 3, 3 * 16
GREEDY: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False}
HALVES = [torch.bfloat16, torch.float16]
BEFORE = [name for name, method in registry.methods().items() if method.stage == "pre-llm"]


def inputs_for(model: Any, rows: int = 1) -> dict[str, Any]:
    ids = [[*words(3 + 4 * row, 1), *placeholders(model, FRAMES), *words(5, 2)] for row in range(rows)]
    return pad_left(ids) | {"pixel_values_videos": make_videos(model, rows, FRAMES).to(model.dtype)}


@pytest.fixture(scope="module", params=HALVES, ids=str)
def half(request: pytest.FixtureRequest) -> Any:
    return make_model().to(request.param)


# --- half precision ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_full_retention_is_bit_identical(half: Any) -> None:
    inputs = inputs_for(half, rows=2)
    plain = half(**inputs).logits
    with tangovlm.attach(half, tangovlm.Tango(retention=1.0)):
        assert torch.equal(half(**inputs).logits, plain)
    assert plain.dtype == half.dtype


@pytest.mark.parametrize("retention", [0.1, 0.37])
@torch.no_grad()
def test_every_method_keeps_the_budget(half: Any, retention: float) -> None:
    inputs = inputs_for(half, rows=2)
    for name in BEFORE:
        with tangovlm.attach(half, tangovlm.method(name, retention=retention)) as session:
            logits = half(**inputs).logits
        assert [video.tokens_after for video in session.report.videos] == [budget.count(retention, COUNT)] * 2, name
        assert logits.dtype == half.dtype
        assert bool(logits.isfinite().all()), name


def pooled_attention(model: Any, pixels: Tensor) -> Tensor:
    """p-attn ``(T, 4, 4)`` from the pooling head's own attention weights, in float32, of the half model's states."""
    tower, states = model.model.vision_tower, []
    hook = tower.post_layernorm.register_forward_pre_hook(lambda _module, args: states.append(args[0]))
    tower(pixels)
    hook.remove()
    norm = functional.layer_norm(
        states[0].float(), (32,), tower.post_layernorm.weight.float(), tower.post_layernorm.bias.float(), 1e-6
    )
    attention = torch.nn.MultiheadAttention(32, 4, batch_first=True)
    attention.load_state_dict({name: value.float() for name, value in tower.head.attention.state_dict().items()})
    probe = tower.head.probe.float().expand(len(pixels), -1, -1)
    scores = attention(probe, norm, norm, average_attn_weights=True)[1]
    square = scores.view(-1, 1, 8, 8)
    return functional.avg_pool2d(square, 2)[:, 0]


@torch.no_grad()
def test_the_kept_set_is_that_of_the_models_own_signals(half: Any) -> None:
    inputs, pruner = inputs_for(half), tangovlm.Tango(retention=0.3)
    pixels = inputs["pixel_values_videos"]
    rows = half.model.get_video_features(pixels, return_dict=True).pooler_output[0]
    assert rows.dtype == half.dtype
    with tangovlm.attach(half, pruner, record=True, timestamps=torch.arange(3.0)) as session:
        half.generate(**inputs, **GREEDY)
    got = session.videos[0]
    saliency = pooled_attention(half, pixels[0])
    torch.testing.assert_close(got.saliency, saliency, atol=1e-5, rtol=1e-4)
    by_hand = pruner(VideoTokens(rows[:COUNT].view(FRAMES, 4, 4, -1), saliency, torch.arange(3.0)))
    assert torch.equal(got.selection.indices, by_hand.indices)
    assert torch.equal(got.selection.sources, by_hand.sources)


# --- 4-bit weights ----------------------------------------------------------------------------------------------------


def save_head(model: Any, path: Path) -> Path:
    weights = model.model.vision_tower.state_dict().items()
    chosen = {f"vision_model.{name}": value for name, value in weights if name.startswith(("head.", "post_layernorm."))}
    save_file(chosen, path)
    return path


def load_in_4_bits(model: Any, folder: Path) -> Any:
    pytest.importorskip("accelerate")
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    from transformers import BitsAndBytesConfig

    model.save_pretrained(folder)
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    return LlavaOnevisionForConditionalGeneration.from_pretrained(
        folder, quantization_config=config, device_map={"": "cpu"}, dtype=torch.float32
    ).eval()


@torch.no_grad()
def test_weights_of_4_bits(tmp_path: Path) -> None:
    model = load_in_4_bits(make_model(head=False, layers=4), tmp_path / "model")
    assert model.model.language_model.layers[0].mlp.up_proj.weight.dtype == torch.uint8
    inputs, head = inputs_for(model, rows=2), save_head(make_model(), tmp_path / "head.safetensors")
    plain = model(**inputs).logits
    for name in ("tango", "fastvid", "visionzip", "fastv", "sparsevlm"):
        for retention in (0.6, 1.0):
            pruner = tangovlm.method(name, retention=retention)
            with tangovlm.attach(model, pruner, head_weights=head) as session:
                model.generate(**inputs, **GREEDY)
                logits = model(**inputs).logits
            if retention == 1.0:
                assert torch.equal(logits, plain)
            if name in BEFORE:
                assert [video.tokens_after for video in session.report.videos] == [budget.count(retention, COUNT)] * 4


def test_a_head_of_4_bits_is_refused(tmp_path: Path) -> None:
    model = load_in_4_bits(make_model(), tmp_path / "model")
    with pytest.raises(ModelError, match=r"head\..* is quantised: .*head_weights"):
        tangovlm.attach(model, tangovlm.method("fastvid", retention=0.5)).__enter__()


# --- flash attention --------------------------------------------------------------------------------------------------

# transformers selects the masks of flash attention by the prefix of the name.
FLASH = "flash_attention_recorded"


class Recorded:
    """A stand-in for flash attention, which records its masks and positions."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor | None, Tensor | None, int, int]] = []

    def __call__(
        self,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Any,
        scaling: float,
        **options: Any,
    ) -> tuple[Tensor, None]:
        new, length = query.shape[2], key.shape[2]
        self.calls.append((attention_mask, options.get("position_ids"), new, length))
        seen = (torch.arange(length) <= torch.arange(length - new, length)[:, None])[None, None]
        if attention_mask is not None:
            seen = seen & attention_mask[:, None, None].bool()
        # The kernel skips padded queries; here they attend to themselves.
        seen = seen | (torch.arange(length) == torch.arange(length - new, length)[:, None])
        key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], dim=1) for part in (key, value))
        output = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scaling)
        return output.transpose(1, 2).contiguous(), None


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    recorded = Recorded()
    monkeypatch.setitem(AttentionInterface._global_mapping, FLASH, recorded)
    monkeypatch.setitem(AttentionMaskInterface._global_mapping, FLASH, flash_attention_mask)
    return recorded


def check(calls: list[tuple[Tensor | None, Tensor | None, int, int]], rows: int, padded: bool) -> None:
    """Masks are two-dimensional, as long as the cache, and given only with padding; positions have no gaps."""
    assert calls
    for mask, positions, new, length in calls:
        if mask is not None:
            assert padded
            assert tuple(mask.shape) == (rows, length)
            assert not bool(mask.all())
        elif positions is not None and rows == 1 and new > 1:
            steps = positions[..., 1:] - positions[..., :-1]
            assert bool((steps == 1).all()), "flash attention would take this for several packed prompts"
    assert any(mask is not None for mask, *_ in calls) == padded


@pytest.mark.parametrize("positions", ["contiguous", "original"])
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("name", ["norms", "fastv", "pyramiddrop", "tango+fastv"])
def test_inputs_of_flash_attention(flash: Recorded, name: str, rows: int, positions: str) -> None:
    model = make_model(layers=4)
    pruner = Norms(0.3) if name == "norms" else tangovlm.method(name, retention=0.6)
    inputs = inputs_for(model, rows)
    with tangovlm.attach(model, pruner, positions=positions):
        wanted = model.generate(**inputs, **GREEDY)
        model.get_decoder().config._attn_implementation = FLASH
        got = model.generate(**inputs, **GREEDY)
    assert torch.equal(got, wanted)
    check(flash.calls, rows, padded=rows == 2)


def test_inputs_of_flash_attention_with_mrope(flash: Recorded) -> None:
    model = make_qwen()
    inputs = {name: value[:1] if name != "pixel_values_videos" else value[:64] for name, value in qwen_inputs().items()}
    inputs["video_grid_thw"] = torch.tensor([[2, 4, 4]] * 2)
    with tangovlm.attach(model, Norms(0.3)):
        wanted = model.generate(**inputs, **GREEDY)
        model.get_decoder().config._attn_implementation = FLASH
        got = model.generate(**inputs, **GREEDY)
    assert torch.equal(got, wanted)
    check(flash.calls, 1, padded=False)


@pytest.mark.gpu
def test_flash_attention_itself() -> None:
    if not torch.cuda.is_available():
        pytest.skip("flash attention needs a CUDA device")
    pytest.importorskip("flash_attn", reason="flash_attn is not installed")
    model = make_model(layers=4).to("cuda", torch.bfloat16)
    inputs = {name: value.to("cuda") for name, value in inputs_for(model, rows=2).items()}
    logits = []
    for attention in ("sdpa", "flash_attention_2"):
        model.set_attn_implementation(attention)
        with torch.no_grad(), tangovlm.attach(model, Norms(0.3)):
            logits.append(model(**inputs).logits[:, -1].float())
    torch.testing.assert_close(*logits, atol=0.2, rtol=0.05)
