"""Answers about an encoded clip are those of lone questions whatever the model and its generation config are set to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import tangovlm
from tangovlm.models.common.transformers_compat import encodes_first
from tangovlm.pipeline.encoded.encoded_clip import EncodedClip
from tangovlm.pipeline.encoded.model_state import ModelState
from tangovlm.pipeline.load import VideoLLM
from tangovlm.pipeline.settings import Support, end_tokens
from tangovlm.selfcheck.twins.common.base import Twin
from tangovlm.video import Frames
from tests.pipeline.test_ask_families import write_checkpoint
from tests.session.test_generate_families import HOSTS
from tests.support.checkpoints import write_clip

QUESTIONS = ("w12 w30 w41", "w13", "w22 w23 w24")
ASKED: dict[str, Any] = {"max_new_tokens": 3}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> VideoLLM:
    return loaded(HOSTS["qwen2_5_vl"](), tmp_path_factory.mktemp("one"))


def loaded(host: Twin, folder: Path) -> VideoLLM:
    write_checkpoint(host, folder)
    return tangovlm.load(folder)


def alone(llm: VideoLLM, clip: Path, retention: float = 0.3) -> list[str]:
    return [tangovlm.ask(clip, each, model=llm, retention=retention, **ASKED) for each in QUESTIONS]


def same_as(expected: list[str], encoded: EncodedClip) -> bool:
    """Whether answers in batches, and one alone, are these."""
    return encoded.ask_all(QUESTIONS, **ASKED) == expected and encoded.ask(QUESTIONS[1], **ASKED) == expected[1]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("repetition_penalty", 1.3),
        ("no_repeat_ngram_size", 1),
        ("min_length", 60),
        ("use_cache", False),
        ("prefill_chunk_size", 64),
        ("cache_implementation", "static"),
        ("cache_implementation", "dynamic"),
        ("prompt_lookup_num_tokens", 2),
        ("return_dict_in_generate", True),
        ("eos_token_id", None),
    ],
)
def test_settings_of_generation(
    llm: VideoLLM, clip: Path, name: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set before or after the clip is encoded."""
    if name == "prefill_chunk_size" and not encodes_first(llm.model):
        pytest.skip("this release of transformers reads chunks of a prompt without its video, which is refused")
    before = llm.encode(clip, retention=0.3)
    if name == "eos_token_id":
        # The second words of two answers.
        ends = [answer.split()[1] for answer in alone(llm, clip)[:2]]
        value = torch.tensor(llm.tokenizer.convert_tokens_to_ids(ends))
    monkeypatch.setattr(llm.model.generation_config, name, value)
    expected = alone(llm, clip)
    assert same_as(expected, before)
    assert same_as(expected, llm.encode(clip, retention=0.3))


def test_stop_strings(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = tangovlm.load(device="cpu")
    pixels = torch.zeros(4, 3, 64, 64, dtype=torch.uint8)
    frames = Frames(pixels, torch.arange(4, dtype=torch.float64), fps=1.0, duration_s=4.0)
    questions = ["What color is the bar?", "How many squares are there?"]
    whole = [tangovlm.ask(frames, each, model=llm, **ASKED) for each in questions]
    monkeypatch.setattr(llm.model.generation_config, "stop_strings", [str(whole[0])[:1]])
    expected = [tangovlm.ask(frames, each, model=llm, **ASKED) for each in questions]
    assert len(expected[0]) <= len(whole[0])
    encoded = llm.encode(frames)
    assert encoded.ask_all(questions, **ASKED) == expected == [encoded.ask(each, **ASKED) for each in questions]


def test_padding_is_not_penalized(llm: VideoLLM, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch with a repetition penalty, where the id 0 is the best unless it is taken for a part of the prompt."""
    first = str(tangovlm.ask(clip, QUESTIONS[1], model=llm, retention=0.3, max_new_tokens=1))
    weights = llm.model.lm_head.weight
    changed = weights.detach().clone()
    changed[0] = 1.05 * changed[llm.tokenizer.convert_tokens_to_ids(first)]
    monkeypatch.setattr(weights, "data", changed)
    monkeypatch.setattr(llm.model.generation_config, "repetition_penalty", 1.2)
    expected = alone(llm, clip)
    assert not expected[1].startswith(first)
    assert same_as(expected, llm.encode(clip, retention=0.3))


@pytest.mark.parametrize("retention", [0.3, 1.0])
def test_layers_with_a_sliding_window(clip: Path, tmp_path: Path, retention: float) -> None:
    host = HOSTS["llava_onevision"]()
    config = host.model.config.get_text_config()
    config.use_sliding_window, config.sliding_window = True, 8
    config.layer_types = ["sliding_attention", "full_attention"]
    llm = loaded(host, tmp_path)
    encoded = llm.encode(clip, retention=retention)
    assert encoded.video is not None
    assert same_as(alone(llm, clip, retention), encoded)


def test_only_prompts_of_similar_length_share_a_batch(
    llm: VideoLLM, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = [" ".join(["w12"] * 80), *QUESTIONS]
    expected = [tangovlm.ask(clip, each, model=llm, retention=0.3, **ASKED) for each in questions]
    encoded = llm.encode(clip, retention=0.3)
    batches = batches_of(llm, monkeypatch)
    assert encoded.ask_all(questions, **ASKED) == expected
    assert batches == [len(QUESTIONS), 1]


def test_the_memory_of_a_batch_includes_the_answers(llm: VideoLLM, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = llm.encode(clip, retention=0.3)
    layers = llm.model.config.get_text_config()
    of_token = (
        2
        * 4
        * layers.num_hidden_layers
        * layers.num_key_value_heads
        * (layers.hidden_size // layers.num_attention_heads)
    )
    assert encoded.video is not None
    monkeypatch.setattr(llm.model.generation_config, "eos_token_id", None)
    batches = batches_of(llm, monkeypatch)
    # A prompt has fewer than 20 tokens of text.
    monkeypatch.setattr(
        "tangovlm.pipeline.encoded.prefix._BATCH_BYTES", 3 * (encoded.video.tokens_after + 20) * of_token
    )
    encoded.ask_all([QUESTIONS[0]] * 3, max_new_tokens=1)
    encoded.ask_all([QUESTIONS[0]] * 3, max_new_tokens=30)
    assert batches[0] == 3 and max(batches[1:]) <= 2


def batches_of(llm: VideoLLM, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of prompts in the calls of `generate` that follow."""
    sizes: list[int] = []
    stock = llm.model.generate

    def generate(**inputs: Any) -> Any:
        sizes.append(len(inputs["input_ids"]))
        return stock(**inputs)

    generate.__wrapped__ = stock  # type: ignore[attr-defined]
    monkeypatch.setattr(llm.model, "generate", generate)
    return sizes


def test_the_offset_of_a_conversation_of_the_user_is_kept(llm: VideoLLM, clip: Path) -> None:
    encoded = llm.encode(clip, retention=0.3)
    encoder: Any = llm.family.encoder
    encoder.rope_deltas = offset = torch.tensor([[-7]])
    encoded.ask_all(QUESTIONS, **ASKED)
    llm.encode(clip, retention=0.5)
    alone(llm, clip)
    assert encoder.rope_deltas is offset


def test_support() -> None:
    from transformers import GenerationConfig

    whole = Support(continues=True, batches=True, pads=True)
    # What real checkpoints ship.
    shipped = {"do_sample": True, "temperature": 0.1, "top_k": 1, "repetition_penalty": 1.05, "use_cache": True}
    assert Support.of(GenerationConfig(**shipped, eos_token_id=[1, 2], pad_token_id=0)) == whole
    assert Support.of(GenerationConfig(no_repeat_ngram_size=0)) == whole
    assert Support.of(GenerationConfig(stop_strings=["a"])) == Support(continues=True, batches=False, pads=False)
    nothing = Support(continues=False, batches=False, pads=False)
    assert Support.of(GenerationConfig(guidance_scale=2.0)) == nothing
    unknown = GenerationConfig()
    unknown.setting_of_a_later_release = 3
    assert Support.of(unknown) == nothing


@pytest.mark.parametrize(("ends", "ids"), [(None, []), (3, [3]), ([3, 4], [3, 4]), (torch.tensor(3), [3])])
def test_end_tokens(ends: Any, ids: list[int]) -> None:
    from transformers import GenerationConfig

    config = GenerationConfig()
    config.eos_token_id = ends
    assert end_tokens(config) == ids


# --- a model that is changed after the clip was encoded ---------------------------------------------------------------


def test_weights_changed_in_place(llm: VideoLLM, clip: Path) -> None:
    """Counted by their version or not, of the language model and of the vision encoder."""
    before = alone(llm, clip)
    encoded = llm.encode(clip, retention=0.3)
    for part, with_data in ((llm.family.decoder, False), (llm.family.decoder, True), (llm.family.encoder.visual, True)):
        weights = [each for each in part.parameters() if each.dim() == 2]
        with torch.no_grad():
            for weight in weights:
                (weight.data if with_data else weight).mul_(-1)
        expected = alone(llm, clip)
        assert expected != before
        assert same_as(expected, encoded)
        wider = encoded.with_method("tango", 0.6).ask(QUESTIONS[0], **ASKED)
        assert wider == tangovlm.ask(clip, QUESTIONS[0], model=llm, retention=0.6, **ASKED)
        with torch.no_grad():
            for weight in weights:
                weight.mul_(-1)
    assert same_as(before, encoded)


def test_hooks_and_dtypes(llm: VideoLLM, clip: Path) -> None:
    before = alone(llm, clip)
    encoded = llm.encode(clip, retention=0.3)
    layers: Any = llm.family.decoder.layers
    handle = layers[0].register_forward_hook(lambda _module, _args, output: -output)
    expected = alone(llm, clip)
    assert expected != before
    assert same_as(expected, encoded)
    handle.remove()
    assert same_as(before, encoded)
    llm.model.to(torch.bfloat16)
    expected = alone(llm, clip)
    assert same_as(expected, encoded)
    llm.model.to(torch.float32)


def test_states(llm: VideoLLM) -> None:
    """Equal for an unchanged model, also while a method is attached; else different."""
    model, layer = llm.model, llm.family.decoder.layers[0]  # type: ignore[index, attr-defined]
    state = ModelState.of(model)
    with tangovlm.attach(model, tangovlm.method("tango", retention=0.5)):
        assert ModelState.of(model) == state
    layer.train()
    assert ModelState.of(model) != state
    layer.eval()
    weight = layer.self_attn.q_proj.weight
    stock = weight.data
    weight.data = stock.clone()
    assert ModelState.of(model) != state
    weight.data = stock
    layer.self_attn.q_proj.scaling = {"default": 1.0}
    assert ModelState.of(model) != state
    del layer.self_attn.q_proj.scaling
    layer.forward = layer.mlp.forward
    assert ModelState.of(model) != state
    del layer.forward
    assert ModelState.of(model) == state


def test_inference_mode(llm: VideoLLM, clip: Path) -> None:
    expected = alone(llm, clip)
    with torch.inference_mode():
        encoded = llm.encode(clip, retention=0.3)
        assert same_as(expected, encoded)
    assert same_as(expected, encoded)
