"""`ask` and `load` with a real file, compared with the separate steps."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2Config, Qwen2ForCausalLM

import tangovlm
from tangovlm.checkpoints.head_weights import load_head_weights
from tangovlm.errors import InputError, MethodError, ModelError, TangoError, VideoError
from tangovlm.inputs.prompting import EMPTY_ANSWER
from tangovlm.methods.build import Pair
from tangovlm.pipeline.embedded import BUILTIN_NOTE, FOREIGN_NOTE
from tangovlm.pipeline.load import VideoLLM
from tangovlm.selfcheck.twins.common.norms import Norms
from tangovlm.selfcheck.twins.common.parts import VIDEO
from tangovlm.video import Frames, decode
from tests.support.checkpoints import SIDE, write_checkpoint, write_clip

QUESTION = "w11 w12 w13"
NEW = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(path)
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


@pytest.fixture(scope="module")
def llm(folder: Path) -> VideoLLM:
    return tangovlm.load(folder, device="cpu")


def test_decoded_frames_are_all_used(llm: VideoLLM, clip: Path) -> None:
    frames = decode(clip, 4)
    for options in ({"start_s": 1}, {"end_s": 2}, {"fps": 1}, {"stream": 0}):
        for question in (QUESTION, [QUESTION]):
            with pytest.raises(InputError, match=f"^{next(iter(options))} is given, but .* decoded already"):
                tangovlm.ask(frames, question, model=llm, **options)


def test_several_questions_about_a_part(llm: VideoLLM, clip: Path) -> None:
    answers = tangovlm.ask(clip, [QUESTION, "w14"], model=llm, fps=5, start_s=1, end_s=1.8, max_new_tokens=1)
    alone = tangovlm.ask(clip, QUESTION, model=llm, fps=5, start_s=1, end_s=1.8, max_new_tokens=1)
    assert answers[0] == alone
    for answer in (*answers, alone):
        assert answer.as_dict()["frame_times_s"] == [1.0, 1.2, 1.4, 1.6]
        assert answer.as_dict()["excerpt_s"] == [1.0, 1.8]


@pytest.fixture(autouse=True)
def quiet() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def inputs_by_hand(clip: Path, frames: int = 4) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    taken = decode(clip, frames, size=(SIDE, SIDE))
    ids = [VIDEO] * (frames * 16 + 1) + [11, 12, 13, 50]
    pixels = (taken.pixels.float() / 255 - 0.5) / 0.5
    inputs = {"input_ids": torch.tensor([ids]), "pixel_values_videos": pixels[None]}
    return inputs | {"attention_mask": torch.ones(1, len(ids), dtype=torch.long)}, taken.timestamps_s


def in_words(output: torch.Tensor, prompt: int) -> str:
    names = {3: "<unk>"} | {number: f"<{number}>" for number in range(4, 10)}
    special = {0, 1, 2, 3}
    return " ".join(names.get(t, f"w{t}") for t in output[0, prompt:].tolist() if t not in special)


@pytest.mark.parametrize("pruner", [Norms(0.25), tangovlm.Tango(retention=0.25), tangovlm.Tango.release(retention=0.1)])
def test_ask_equals_its_separate_steps(llm: VideoLLM, clip: Path, pruner: Any) -> None:
    answer = tangovlm.ask(clip, QUESTION, model=llm, method=pruner, max_new_tokens=NEW)
    inputs, times = inputs_by_hand(clip)
    with tangovlm.attach(llm.model, pruner, timestamps=times) as session:
        output = llm.model.generate(**inputs, max_new_tokens=NEW, do_sample=False)
    assert answer == in_words(output, inputs["input_ids"].shape[1])
    video = session.report.videos[0]
    assert (answer.tokens_before, answer.tokens_after) == (64, video.tokens_after)
    assert (answer.segments, answer.method, answer.retention) == (video.segments, pruner.name, pruner.retention)


def test_full_retention_is_the_stock_model(llm: VideoLLM, clip: Path) -> None:
    answer = tangovlm.ask(clip, QUESTION, model=llm, retention=1.0, max_new_tokens=NEW)
    inputs, _ = inputs_by_hand(clip)
    output = llm.model.generate(**inputs, max_new_tokens=NEW, do_sample=False)
    assert answer == in_words(output, inputs["input_ids"].shape[1])
    assert answer.tokens_before == answer.tokens_after == 64


def test_answer_as_json(llm: VideoLLM, clip: Path) -> None:
    answer = tangovlm.ask(clip, QUESTION, model=llm, retention=0.1, max_new_tokens=NEW)
    got = json.loads(json.dumps(answer.as_dict()))
    assert isinstance(answer, str)
    assert got["answer"] == str(answer)
    assert (got["tokens_before"], got["tokens_after"], got["retention"], got["method"]) == (64, 6, 0.1, "tango")
    assert sum(got["segments"]) == got["frames"] == 4
    assert list(got["timings_ms"]) == ["decode", "encode", "prune", "prefill", "decode_tokens"]
    assert all(value > 0 for value in got["timings_ms"].values())
    assert answer.frames.pixels.shape == (4, 3, SIDE, SIDE)
    assert answer.video is None


def test_frames_notes_and_record(llm: VideoLLM, clip: Path) -> None:
    answer = tangovlm.ask(clip, QUESTION, model=llm, method="tango", frames=50, record=True, max_new_tokens=1)
    assert answer.frames.pixels.shape[0] == 12
    assert any("12" in note for note in answer.notes)
    assert any("sink" in note for note in answer.notes)
    assert not any("one second apart" in note for note in answer.notes)
    assert answer.video is not None
    assert answer.video.selection.indices.numel() == answer.tokens_after
    assert answer.video.saliency is not None
    assert answer.video.saliency.shape == (12, 4, 4)


def test_decoded_frames_can_be_asked_again(llm: VideoLLM, clip: Path) -> None:
    first = tangovlm.ask(clip, QUESTION, model=llm, max_new_tokens=NEW)
    again = tangovlm.ask(first.frames, QUESTION, model=llm, max_new_tokens=NEW)
    assert again == first
    assert again.frames is first.frames


def test_progress(llm: VideoLLM, clip: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    tangovlm.ask(clip, QUESTION, model=llm, max_new_tokens=NEW, progress=lambda *call: calls.append(call))
    stages = [stage for stage, _, _ in calls]
    assert sorted(set(stages), key=stages.index) == ["decode", "encode", "generate"]
    for stage, total in (("decode", 4), ("encode", 1), ("generate", NEW)):
        done = [call[1] for call in calls if call[0] == stage]
        assert done == sorted(done)
        assert (done[0], done[-1]) == (0, total)
        assert {call[2] for call in calls if call[0] == stage} == {total}


def test_the_embedded_model(folder: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tangovlm.pipeline.load.BUILTIN", folder)
    with pytest.warns(UserWarning, match="cannot know what this video shows"):
        answer = tangovlm.ask(clip, QUESTION, max_new_tokens=1)
    assert answer.model == "tangovlm-tiny"
    assert [note for note in answer.notes if "only its synthetic world" in note] == [FOREIGN_NOTE]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="the embedded model")
        answer = tangovlm.ask(answer.frames, QUESTION, model="tangovlm-tiny", max_new_tokens=1)
    assert answer.model == "tangovlm-tiny"
    assert [note for note in answer.notes if "only its synthetic world" in note] == [BUILTIN_NOTE]
    monkeypatch.setattr("tangovlm.pipeline.load.BUILTIN", folder / "nowhere")
    with pytest.raises(ModelError, match="no embedded model"):
        tangovlm.load()


def test_load_by_name_and_by_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    for name in (str(folder), folder, f"./{folder.name}", folder.name):
        llm = tangovlm.load(name, device="cpu")
        assert (llm.name, llm.builtin, llm.default_frames) == (str(name), False, 4)
    assert llm.model.dtype == torch.float32
    assert llm.model.config._attn_implementation == "sdpa"
    assert not llm.model.training
    assert tangovlm.load(folder, dtype=torch.bfloat16).model.dtype == torch.bfloat16


def test_low_precision_end_to_end(folder: Path, clip: Path) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        llm = tangovlm.load(folder, device="cpu", dtype=dtype)
        assert tangovlm.ask(clip, QUESTION, model=llm, max_new_tokens=2).tokens_after == 6


def test_options_of_loading(folder: Path, clip: Path) -> None:
    options: dict[str, Any] = {"device": "cpu", "dtype": torch.bfloat16, "saliency": "attn", "record": True}
    answer = tangovlm.ask(clip, QUESTION, model=folder, max_new_tokens=1, **options)
    del options["record"]
    same = tangovlm.ask(clip, QUESTION, model=tangovlm.load(folder, **options), max_new_tokens=1, record=True)
    other = tangovlm.ask(clip, QUESTION, model=folder, device="cpu", saliency="p-attn", max_new_tokens=1, record=True)
    assert answer.video is not None and same.video is not None and other.video is not None
    assert answer.video.selection.features.dtype == torch.bfloat16
    assert other.video.selection.features.dtype == torch.float32
    found = [video.saliency for video in (answer.video, same.video, other.video)]
    assert found[0] is not None and found[1] is not None and found[2] is not None
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], found[2], rtol=0.1)
    with pytest.raises(ModelError, match="nowhere"):
        tangovlm.ask(clip, QUESTION, model=folder, head_weights="./nowhere.safetensors", saliency="p-attn")


@pytest.mark.parametrize(
    "option", [{"device": "cpu"}, {"dtype": torch.float32}, {"saliency": "attn"}, {"head_weights": "x.safetensors"}]
)
def test_options_of_loading_for_a_loaded_model(llm: VideoLLM, clip: Path, option: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(option))} is given, but the model is loaded already"):
        tangovlm.ask(clip, QUESTION, model=llm, **option)


def test_one_retention_only(llm: VideoLLM, clip: Path) -> None:
    pair = Pair(tangovlm.Tango(), tangovlm.method("tango-fastv"), retention=0.5)
    for pruner, own in ((tangovlm.Tango(retention=0.25), "0.25"), (Norms(0.25), "0.25"), (pair, "0.5")):
        with pytest.raises(InputError, match=f"retention=0.75 is given, and .* has retention={own}: leave"):
            tangovlm.ask(clip, QUESTION, model=llm, method=pruner, retention=0.75)
    with pytest.raises(InputError, match="'fastv' has retention=None"):
        tangovlm.ask(clip, QUESTION, model=llm, method=tangovlm.method("fastv"), retention=0.1)
    pruner = tangovlm.Tango(retention=0.25)
    assert tangovlm.ask(clip, QUESTION, model=llm, method=pruner, retention=0.25, max_new_tokens=1).tokens_after == 16
    assert tangovlm.ask(clip, QUESTION, model=llm, method="tango", max_new_tokens=1).tokens_after == 6


def test_an_empty_answer_says_so(folder: Path, clip: Path) -> None:
    llm = tangovlm.load(folder, device="cpu")
    special = torch.tensor([0])
    assert EMPTY_ANSWER not in tangovlm.ask(clip, QUESTION, model=llm, max_new_tokens=NEW).notes
    head = llm.model.lm_head
    head.register_forward_hook(lambda _module, _inputs, logits: logits.index_fill(-1, special, 1e4))
    answer = tangovlm.ask(clip, QUESTION, model=llm, max_new_tokens=NEW)
    assert answer == ""
    assert EMPTY_ANSWER in answer.notes


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"question": ""}, InputError, "question is empty"),
        ({"question": " \n"}, InputError, "question is empty"),
        ({"question": "w\udcff"}, InputError, "not UTF-8"),
        ({"question": "what is <video>"}, InputError, "<video>"),
        ({"retention": 0}, TangoError, "retention"),
        ({"retention": 1.5}, TangoError, "retention"),
        ({"retention": float("nan")}, TangoError, "retention"),
        ({"method": "nope"}, MethodError, "tango"),
        ({"frames": 0}, VideoError, "0"),
        ({"max_new_tokens": 0}, InputError, "at least 1"),
        ({"video": "nowhere.mp4"}, VideoError, "nowhere"),
        ({"video": "https://example.org/clip.mp4"}, VideoError, "example"),
    ],
)
def test_mistakes(llm: VideoLLM, clip: Path, changes: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {"video": clip, "question": QUESTION, "model": llm, "max_new_tokens": 1} | changes
    with pytest.raises(error, match=message) as caught:
        tangovlm.ask(**arguments)
    assert "\n" not in str(caught.value)


def refused(source: Any) -> str:
    with pytest.raises(ModelError) as caught:
        tangovlm.load(source, device="cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_unusable_checkpoints(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "is not a directory" in refused(tmp_path / "missing")
    assert "no config.json" in refused(tmp_path)
    assert "has not been downloaded, and the hub cannot be reached" in refused("no-such-owner/no-such-model")
    assert "give a checkpoint directory or a hub id" in refused("not a name at all")
    (tmp_path / "config.json").write_text("{")
    assert "not JSON" in refused(tmp_path)
    text = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=8,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
        )
    )
    text.save_pretrained(tmp_path / "text")
    assert "unsupported architecture Qwen2ForCausalLM" in refused(tmp_path / "text")


def test_only_safetensors_are_read(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    assert "safetensors" in refused(tmp_path)


def test_truncated_weights(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    assert "cannot load" in refused(tmp_path)


def test_missing_tokenizer(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (tmp_path / name).unlink(missing_ok=True)
    assert "cannot load" in refused(tmp_path)


def test_missing_weights(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors = {name: value for name, value in tensors.items() if not name.endswith("image_newline")}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    message = refused(tmp_path)
    assert "lacks 1 weights" in message
    assert "image_newline" in message


def test_misshapen_weights(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = next(name for name in tensors if name.endswith("image_newline"))
    tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    message = refused(tmp_path)
    assert "misshapen" in message
    assert "image_newline" in message


def test_damaged_small_files(tmp_path: Path, clip: Path) -> None:
    write_checkpoint(tmp_path)
    config = (tmp_path / "config.json").read_bytes()
    for content, message in ((b"\xff{", "not UTF-8"), (b'{"architectures": "Llama"}', "names no architecture")):
        (tmp_path / "config.json").write_bytes(content)
        assert message in refused(tmp_path)
    (tmp_path / "config.json").write_bytes(config)
    (tmp_path / "chat_template.jinja").write_text("{% for %}")
    with pytest.raises(ModelError, match="chat template does not accept"):
        tangovlm.ask(clip, QUESTION, model=tangovlm.load(tmp_path, device="cpu"))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer.json", '{"a": 1}', "cannot load the tokenizer"),
        ("video_preprocessor_config.json", '{"num_frames": "x"}', "has num_frames 'x'"),
        ("chat_template.json", '{"chat_template": {"default": "x"}}', "is no text"),
        ("model.safetensors.index.json", "{", "is not JSON"),
        ("model.safetensors.index.json", "{}", "names no files of weights"),
        ("model.safetensors.index.json", '{"weight_map": [3]}', "names no files of weights"),
    ],
)
def test_invalid_values(folder: Path, tmp_path: Path, file: str, content: str, message: str) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "chat_template.jinja").unlink()
    (copy / file).write_text(content)
    if file.startswith("model"):
        (copy / "model.safetensors").unlink()
        with pytest.raises(ModelError, match=message):
            load_head_weights(copy)
    else:
        assert message in refused(copy)


@pytest.mark.parametrize("device", ["nonsense", "xpu:99", 3.5])
def test_unavailable_devices(folder: Path, device: Any) -> None:
    with pytest.raises(InputError, match="cannot use the device"):
        tangovlm.load(folder, device=device)


def frames(seconds: torch.Tensor) -> Frames:
    return Frames(torch.zeros(len(seconds), 3, 8, 8, dtype=torch.uint8), seconds, fps=1.0, duration_s=2.0, notes=())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": None}, "the question is NoneType"),
        ({"max_new_tokens": "a"}, "max_new_tokens is 'a'"),
        ({"max_new_tokens": 2.5}, "max_new_tokens is 2.5"),
        ({"video": torch.zeros(4, 3, 8, 8)}, "the video is Tensor: give a path"),
        ({"video": frames(torch.zeros(0))}, "frames must be uint8"),
        ({"video": frames(torch.tensor([0.0, torch.nan]))}, "have NaN"),
        ({"video": frames(torch.tensor([1.0, 0.5]))}, "do not increase"),
    ],
)
def test_arguments_of_another_type(llm: VideoLLM, clip: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tangovlm.ask(**{"video": clip, "question": QUESTION, "model": llm, **changes})


@pytest.mark.parametrize("retention", [0.5, 1.0])
@pytest.mark.parametrize("part", ["multi_modal_projector", "language_model"])
def test_weights_with_nan(folder: Path, clip: Path, retention: float, part: str) -> None:
    damaged = tangovlm.load(folder, device="cpu")
    with torch.no_grad():
        next(getattr(damaged.model.model, part).parameters()).fill_(float("nan"))
    with pytest.raises(InputError, match="NaN"):
        tangovlm.ask(clip, QUESTION, model=damaged, retention=retention)


def test_missing_head_weights(folder: Path) -> None:
    family = tangovlm.load(folder, device="cpu", head_weights="./none.safetensors").family
    with pytest.raises(ModelError, match="there is no ./none.safetensors"):
        family.signals.prepare(frozenset({"saliency"}))
