"""Checkpoints in the authors' format against the same model in the stock format."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlavaOnevisionForConditionalGeneration, Qwen2Tokenizer

import tangovlm
from tangovlm.checkpoints import llava_original as original
from tangovlm.errors import ModelError
from tangovlm.models.llava_video import LlavaVideoForConditionalGeneration
from tangovlm.video import decode
from tests.support import original_format
from tests.support.checkpoints import write_clip
from tests.support.original_format import END, IMAGE, PAD, TOWER, VIDEO, make, write_original, write_stock

QUESTION = "what is it?"
CLASSES = {True: LlavaVideoForConditionalGeneration, False: LlavaOnevisionForConditionalGeneration}


@pytest.fixture(autouse=True)
def towers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(original.TOWERS, TOWER, original_format.tower())


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


def both(folder: Path, video: bool, *, tied: bool = False) -> tuple[Any, Any]:
    """The two formats of one model, loaded, with one pooling head."""
    model = make(video, tied=tied)
    model.config.add_time_instruction = False
    write_original(folder / "original", model, video)
    write_stock(folder / "stock", model, original.TEMPLATE)
    head = folder / "head.safetensors"
    save_file(original_format.pooling_head(model), head)
    loaded = [tangovlm.load(folder / name, device="cpu", head_weights=head) for name in ("original", "stock")]
    return loaded[0], loaded[1]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("video", [True, False])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_both_formats_answer_the_same(tmp_path: Path, clip: Path, video: bool, tied: bool) -> None:
    theirs, stock = both(tmp_path, video, tied=tied)
    assert type(theirs.model) is type(stock.model) is CLASSES[video]
    assert theirs.family.name == stock.family.name == ("llava-video" if video else "llava-onevision")
    assert theirs.default_frames == (64 if video else 32)
    state = stock.model.state_dict()
    assert state.keys() == theirs.model.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in theirs.model.state_dict().items())
    for retention in (1.0, 0.25):
        options: dict[str, Any] = {"retention": retention, "frames": 4, "max_new_tokens": 6}
        one, other = (tangovlm.ask(clip, QUESTION, model=llm, **options) for llm in (theirs, stock))
        assert one == other
        assert one.tokens_before == other.tokens_before == (36 if video else 64)
        assert one.tokens_after == other.tokens_after == round(one.tokens_before * retention)


@pytest.mark.parametrize("video", [True, False])
def test_without_weights(tmp_path: Path, video: bool) -> None:
    write_original(tmp_path, make(video), video)
    whole = tangovlm.load(tmp_path, device="cpu")
    (tmp_path / "model.safetensors").unlink()
    empty = tangovlm.load(tmp_path, device="cpu", weights=False)
    assert type(empty.model) is CLASSES[video]
    assert empty.model.dtype == whole.model.dtype
    assert empty.family.layout.placeholder == whole.family.layout.placeholder
    shapes = {name: value.shape for name, value in whole.model.state_dict().items()}
    assert {name: value.shape for name, value in empty.model.state_dict().items()} == shapes
    assert all(value.device.type == "meta" for value in empty.model.parameters())
    with pytest.raises(ModelError):
        tangovlm.load(tmp_path, device="cpu")


def test_the_answer_by_hand(tmp_path: Path, clip: Path) -> None:
    """The prompt of the authors' template, and pixels of SigLIP whatever the checkpoint's preprocessor config says."""
    model = make(video=True)
    write_original(tmp_path, model, video=True)
    llm = tangovlm.load(tmp_path, device="cpu")
    answer = tangovlm.ask(clip, QUESTION, model=llm, retention=1.0, frames=3, max_new_tokens=5)
    frames = decode(clip, 3, size=(49, 49)).pixels
    prompt = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n<video>\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    )
    before, behind = (llm.tokenizer(text)["input_ids"] for text in prompt.split("<video>"))
    ids = torch.tensor([[*before, *[VIDEO] * (3 * 3 * 4), *behind]])
    pixels = ((frames.float() / 255 - 0.5) / 0.5)[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values_videos": pixels}
    output = model.generate(**inputs, max_new_tokens=5, do_sample=False, eos_token_id=END)
    assert answer == llm.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True).strip()


def test_settings(tmp_path: Path) -> None:
    write_original(tmp_path, make(video=True), video=True, tokenizer_model_max_length=100)
    llm = tangovlm.load(tmp_path, device="cpu")
    config, sampling = llm.model.config, llm.model.generation_config
    assert (config.image_token_index, config.video_token_index) == (IMAGE, VIDEO)
    assert llm.tokenizer.convert_tokens_to_ids(["<image>", "<video>", "<|endoftext|>"]) == [IMAGE, VIDEO, PAD]
    assert config.text_config.max_position_embeddings == 100
    assert config.image_grid_pinpoints == [[49, 49], [98, 49]]
    assert sampling.eos_token_id == [END]
    assert sampling.repetition_penalty in (None, 1.0)
    assert llm.config == original_format.PIXELS
    assert llm.tokenizer.padding_side == "left"


@pytest.mark.parametrize("layout", ["decoder", "added_tokens.json", "tokenizer.json"])
def test_layouts_of_tokenizers(tmp_path: Path, layout: str) -> None:
    """Where published files name "<image>", or hold the vocabulary, makes no difference."""
    write_original(tmp_path, make(video=True), video=True)
    file = tmp_path / "tokenizer_config.json"
    if layout == "decoder":
        config = json.loads(file.read_text())
        config["added_tokens_decoder"][str(END + 1)] = {"content": "<image>", "special": False}
        file.write_text(json.dumps(config))
    elif layout == "added_tokens.json":
        added = {name: PAD + place for place, name in enumerate([*original_format.SPECIAL, "<image>"])}
        (tmp_path / layout).write_text(json.dumps(added))
    else:
        Qwen2Tokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path)
        (tmp_path / "vocab.json").unlink()
        (tmp_path / "merges.txt").unlink()
    llm = tangovlm.load(tmp_path, device="cpu")
    assert (llm.model.config.image_token_index, llm.model.config.video_token_index) == (IMAGE, VIDEO)
    assert llm.tokenizer("<|im_start|>user\n<video>")["input_ids"] == [END - 1, 20, 18, 4, 17, 41, VIDEO]


@pytest.mark.parametrize("video", [True, False])
def test_what_is_saved_loads_again(tmp_path: Path, clip: Path, video: bool) -> None:
    model = make(video)
    write_original(tmp_path / "original", model, video)
    llm = tangovlm.load(tmp_path / "original", device="cpu")
    llm.model.save_pretrained(tmp_path / "saved")
    llm.processor.save_pretrained(tmp_path / "saved")
    again = tangovlm.load(tmp_path / "saved", device="cpu")
    assert (again.template, again.config) == (original.TEMPLATE, llm.config)
    options: dict[str, Any] = {"retention": 1.0, "frames": 3, "max_new_tokens": 5}
    one, other = (tangovlm.ask(clip, QUESTION, model=loaded, **options) for loaded in (llm, again))
    assert one == other
    if video:
        # Which needs no file to say how its pixels are made.
        (tmp_path / "saved" / "video_preprocessor_config.json").unlink()
        frames = torch.full((1, 3, 384, 384), 255, dtype=torch.uint8)
        prompt = tangovlm.load(tmp_path / "saved").family.prompt
        assert torch.equal(prompt.pixels(frames, {}), torch.ones(1, 1, 3, 384, 384))
    llm.tokenizer.save_pretrained(tmp_path / "tokenizer")
    assert Qwen2Tokenizer.from_pretrained(tmp_path / "tokenizer").chat_template == original.TEMPLATE
    assert type(again.model) is CLASSES[video]
    assert again.model.config.video_token_index == VIDEO
    state = again.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_shards(tmp_path: Path) -> None:
    model = make(video=True)
    write_original(tmp_path, model, video=True)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    files = {name: f"model-0000{1 + place % 2}-of-00002.safetensors" for place, name in enumerate(sorted(tensors))}
    for file in set(files.values()):
        part = {name: tensor for name, tensor in tensors.items() if files[name] == file}
        save_file(part, tmp_path / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 0}, "weight_map": files}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    state = tangovlm.load(tmp_path, device="cpu").model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("wanted", "found"), [("auto", torch.bfloat16), (torch.float32, torch.float32)])
def test_number_type(tmp_path: Path, wanted: Any, found: torch.dtype) -> None:
    """That of the config, unless another one is asked for."""
    write_original(tmp_path, make(video=True), video=True)
    parts = original.load(str(tmp_path), dtype=wanted, local_files_only=True, use_safetensors=True)
    assert {parameter.dtype for parameter in parts.model.parameters()} == {found}


@pytest.mark.parametrize("messages", ["text", "parts"])
def test_template(tmp_path: Path, messages: str) -> None:
    original_format.write_tokenizer(tmp_path)
    tokenizer = Qwen2Tokenizer.from_pretrained(tmp_path)
    parts: dict[str, Any] = {
        "text": "<image>\nwhat?",
        "parts": [{"type": "image"}, {"type": "text", "text": "what?"}],
    }
    turns = [
        {"role": "system", "content": "say no"},
        {"role": "user", "content": parts[messages]},
        {"role": "assistant", "content": "no"},
        {"role": "user", "content": "why?"},
    ]
    rendered = tokenizer.apply_chat_template(
        turns, chat_template=original.TEMPLATE, tokenize=False, add_generation_prompt=True
    )
    assert rendered == (
        "<|im_start|>system\nsay no<|im_end|>\n<|im_start|>user\n<image>\nwhat?<|im_end|>\n"
        "<|im_start|>assistant\nno<|im_end|>\n<|im_start|>user\nwhy?<|im_end|>\n<|im_start|>assistant\n"
    )


# --- what is refused --------------------------------------------------------------------------------------------------


def refused(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        tangovlm.load(folder, device="cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("video", "changes"),
    [
        (True, {"mm_newline_position": "frame"}),
        (True, {"mm_newline_position": "no_token"}),
        (True, {"mm_spatial_pool_mode": "max"}),
        (False, {"mm_spatial_pool_mode": "average"}),
        (True, {"mm_spatial_pool_stride": 4}),
        (True, {"mm_patch_merge_type": "flat"}),
        (True, {"mm_projector_type": "linear"}),
        (True, {"mm_resampler_type": "qformer"}),
        (True, {"mm_vision_select_layer": -1}),
        (True, {"mm_vision_select_feature": "cls_patch"}),
        (True, {"mm_vision_tower": "openai/clip-vit-large-patch14-336"}),
        (True, {"mm_vision_tower": ["a"]}),
        (True, {"mm_hidden_size": 1024}),
        (True, {"mm_use_im_start_end": True}),
        (True, {"add_faster_video": True}),
        (True, {"rope_scaling": {"type": "linear", "factor": 2.0}}),
        (True, {"image_aspect_ratio": "pad"}),
        (True, {"image_grid_pinpoints": "(1x1),...,(6x6)"}),
        (True, {"image_grid_pinpoints": [[49, 49, 49]]}),
        (True, {"hidden_size": None}),
        (True, {"hidden_size": "48"}),
        (True, {"num_attention_heads": 4.5}),
        (True, {"hidden_act": "nothing"}),
        (True, {"torch_dtype": "int8"}),
        (True, {"vocab_size": END + 2}),
    ],
)
def test_configs_that_are_not_supported(tmp_path: Path, video: bool, changes: dict[str, Any]) -> None:
    write_original(tmp_path, make(video), video, **changes)
    (name,) = changes
    assert f"{name} " in refused(tmp_path)


@pytest.mark.parametrize("changes", [{"use_sliding_window": "no"}, {"attention_dropout": [1]}, {"pad_token_id": {}}])
def test_fields_of_another_type(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_original(tmp_path, make(video=True), video=True, **changes)
    assert "cannot load" in refused(tmp_path)


@pytest.mark.parametrize(
    "changes", [{"model_type": "llava_qwen"}, {"model_type": "qwen2"}, {"mm_spatial_pool_mode": "average"}]
)
def test_configs_that_mean_the_same(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_original(tmp_path, make(video=True), video=True, **changes)
    assert isinstance(tangovlm.load(tmp_path, device="cpu").model, LlavaVideoForConditionalGeneration)


def test_nothing_of_a_checkpoint_is_executed(tmp_path: Path) -> None:
    auto_map = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model", "AutoTokenizer": ["code.Tok", None]}
    write_original(tmp_path, make(video=True), video=True, auto_map=auto_map)
    (tmp_path / "code.py").write_text("raise SystemExit('executed')")
    assert isinstance(tangovlm.load(tmp_path, device="cpu").model, LlavaVideoForConditionalGeneration)


@pytest.mark.parametrize("name", ["model.mm_projector.2.bias", "model.image_newline", "lm_head.weight"])
def test_weights_that_are_missing_or_misshapen(tmp_path: Path, name: str) -> None:
    write_original(tmp_path, make(video=True), video=True)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    cut = tensors.pop(name)[1:].clone()
    save_file(tensors, file, metadata={"format": "pt"})
    message = refused(tmp_path)
    assert "lacks 1 weights" in message
    assert name.split(".")[-1] in message
    save_file(tensors | {name: cut}, file, metadata={"format": "pt"})
    assert "has misshapen 1 weights" in refused(tmp_path)


def test_only_safetensors_are_read(tmp_path: Path) -> None:
    write_original(tmp_path, make(video=True), video=True)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    assert "safetensors" in refused(tmp_path)


def test_missing_tokenizer(tmp_path: Path) -> None:
    write_original(tmp_path, make(video=True), video=True)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (tmp_path / name).unlink()
    assert "has no tokenizer" in refused(tmp_path)
