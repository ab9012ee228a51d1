"""`load` and `ask` with a small checkpoint of every family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import tangovlm
from tangovlm import budget
from tangovlm.checkpoints.checkpoint import preprocessor_config
from tangovlm.errors import InputError
from tangovlm.models.common.patch_sequence import PatchSequenceFamily
from tangovlm.pipeline.generation import model_inputs
from tangovlm.pipeline.load import VideoLLM
from tangovlm.selfcheck.twins.common.base import Twin
from tangovlm.selfcheck.twins.common.parts import FIRST_WORD, PAD, VOCABULARY
from tangovlm.video import Frames, decode
from tests.session.test_generate_families import HOSTS
from tests.support.checkpoints import write_clip

FRAMES, QUESTION = 4, "w12 w30 w41"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


def write_checkpoint(host: Twin, folder: Path) -> None:
    host.model.save_pretrained(folder)
    vocabulary = {"<pad>": PAD, **host.specials}
    free = [number for number in range(FIRST_WORD) if number not in vocabulary.values()]
    vocabulary |= {"<unk>": free[0]} | {f"<{number}>": number for number in free[1:]}
    vocabulary |= {f"w{number}": number for number in range(FIRST_WORD, VOCABULARY)}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>", pad_token="<pad>")
    tokenizer.add_special_tokens({"additional_special_tokens": list(host.specials)})
    tokenizer.save_pretrained(folder)
    (folder / "video_preprocessor_config.json").write_text(json.dumps(host.preprocessor | {"num_frames": FRAMES}))
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{% for c in m['content'] if c.type == 'video' %}" + host.template + "{% endfor %}"
        "{% for c in m['content'] if c.type == 'text' %} {{ c.text }}{% endfor %}{% endfor %} w50"
    )


@pytest.fixture(scope="module", params=HOSTS)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[VideoLLM, Twin]:
    folder, host = tmp_path_factory.mktemp(request.param), HOSTS[request.param]()
    write_checkpoint(host, folder)
    return tangovlm.load(folder), host


def test_the_weights_are_those_of_the_checkpoint(loaded: tuple[VideoLLM, Twin]) -> None:
    llm, host = loaded
    assert llm.family.name == host.family
    assert llm.default_frames == FRAMES
    ours, theirs = llm.model.state_dict(), host.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_ask(loaded: tuple[VideoLLM, Twin], clip: Path) -> None:
    llm, _ = loaded
    options: dict[str, Any] = {"model": llm, "max_new_tokens": 4}
    everything = tangovlm.ask(clip, QUESTION, retention=1.0, **options)
    frames = decode(clip, FRAMES, size=lambda height, width: llm.family.prompt.frame_size(llm.config, height, width))
    inputs = model_inputs(llm, frames, QUESTION)
    stock = llm.model.generate(**inputs, max_new_tokens=4, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert everything == llm.tokenizer.decode(stock, skip_special_tokens=True).strip()
    fewer = tangovlm.ask(clip, QUESTION, retention=0.3, **options)
    assert fewer.tokens_before == everything.tokens_before == everything.tokens_after
    assert fewer.tokens_after == budget.count(0.3, fewer.tokens_before)
    assert not any("timestamps" in note for note in fewer.notes)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_part_of_a_file_is_for_the_model_a_file_of_its_own(loaded: tuple[VideoLLM, Twin], clip: Path) -> None:
    """Its times start at 0 in prompts and positions; those of the answer are of the file."""
    llm, _ = loaded
    answer = tangovlm.ask(clip, QUESTION, model=llm, max_new_tokens=1, start_s=0.8, end_s=2.0)
    part = answer.frames
    assert part.timestamps_s.tolist() == pytest.approx([0.8, 1.0, 1.4, 1.8])
    alone = Frames(part.pixels, torch.tensor([0, 0.2, 0.6, 1.0], dtype=torch.float64), fps=5.0, duration_s=1.2)
    got, wanted = model_inputs(llm, part, QUESTION), model_inputs(llm, alone, QUESTION)
    assert got.keys() == wanted.keys()
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)
    prompt = f"{llm.processor.video_token} w12"
    got, wanted = (llm.processor(prompt, frames, return_metadata=True) for frames in (part, alone))
    assert got["video_metadata"][0]["frames_indices"] == wanted["video_metadata"][0]["frames_indices"]
    assert torch.equal(got["input_ids"], wanted["input_ids"])


def sized(folder: Path, **fields: Any) -> None:
    """Change fields of the preprocessor config."""
    file = folder / "video_preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "glm4v", "video_llama_3"])
def test_frames_have_the_size_of_the_checkpoint(name: str, clip: Path, tmp_path: Path) -> None:
    """For files and for decoded frames; and smaller on request."""
    write_checkpoint(HOSTS[name](), tmp_path)
    sized(tmp_path, size={"shortest_edge": 20_000, "longest_edge": 100_000})
    llm = tangovlm.load(tmp_path)
    steps = FRAMES // llm.family.layout.frames_per_step
    # A clip of 64 x 96 is enlarged to 20,000 pixels per frame, or all frames together have so many.
    wanted = {"qwen2_5_vl": 120 * 176, "video_llama_3": 120 * 176}.get(name, 64 * 96) // 64 * steps
    options: dict[str, Any] = {"model": llm, "max_new_tokens": 1, "retention": 1.0}
    for video in (clip, decode(clip, FRAMES)):
        assert tangovlm.ask(video, QUESTION, **options).tokens_before == wanted
        assert tangovlm.ask(video, QUESTION, **options, max_frame_pixels=32 * 32).tokens_before == 24 * 32 // 64 * steps
    smaller = tangovlm.load(tmp_path, max_frame_pixels=32 * 32)
    assert tangovlm.ask(clip, QUESTION, **options | {"model": smaller}).tokens_before == 24 * 32 // 64 * steps
    inputs = smaller.processor(f"{smaller.processor.video_token} w12", clip)
    assert inputs["video_grid_thw"].tolist() == [[steps, 6, 8]]
    smaller.model.save_pretrained(tmp_path / "saved")
    smaller.processor.save_pretrained(tmp_path / "saved")
    again = tangovlm.load(tmp_path / "saved").processor(f"{smaller.processor.video_token} w12", clip)
    assert torch.equal(again["pixel_values_videos"], inputs["pixel_values_videos"])


def test_a_pixel_budget_is_shared_by_the_decoded_frames(tmp_path: Path) -> None:
    """If a clip has fewer frames than requested, each may be larger."""
    write_checkpoint(HOSTS["qwen3_vl"](), tmp_path)
    sized(tmp_path, size={"shortest_edge": 256, "longest_edge": 6 * 64 * 96})
    llm, short = tangovlm.load(tmp_path), write_clip(tmp_path / "short.mp4", frames=6)
    few = tangovlm.ask(short, QUESTION, model=llm, frames=12, max_new_tokens=1, retention=1.0)
    assert few.frames.pixels.shape == (6, 3, 64, 96)
    many = tangovlm.ask(
        write_clip(tmp_path / "long.mp4"), QUESTION, model=llm, frames=12, max_new_tokens=1, retention=1.0
    )
    assert many.frames.pixels.shape == (12, 3, 40, 64)
    # An odd number is counted in whole steps: frames that were resized while decoding are not resized again.
    sized(tmp_path, size={"shortest_edge": 256, "longest_edge": 7 * 64 * 96})
    llm = tangovlm.load(tmp_path)
    odd = tangovlm.ask(tmp_path / "long.mp4", QUESTION, model=llm, frames=7, max_new_tokens=1, retention=1.0)
    assert odd.tokens_before == 4 * odd.frames.pixels[0, 0].numel() // 64


@pytest.mark.parametrize("wrong", [0, -1, True, 448.0, "448"])
def test_invalid_limits_of_frames(loaded: tuple[VideoLLM, Twin], wrong: Any) -> None:
    with pytest.raises(InputError, match="max_frame_pixels is"):
        loaded[0].limited(wrong)


def test_limits_are_refused_for_a_fixed_frame_size(loaded: tuple[VideoLLM, Twin], clip: Path) -> None:
    llm, _ = loaded
    if isinstance(llm.family, PatchSequenceFamily) or llm.family.name == "gemma-4":
        pytest.skip("takes frames of any size")
    with pytest.raises(InputError, match="the frames of this model have one size only: leave it out"):
        tangovlm.ask(clip, QUESTION, model=llm, max_frame_pixels=448 * 448)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_frames_that_the_processor_would_drop_are_reported(clip: Path, tmp_path: Path) -> None:
    write_checkpoint(HOSTS["video_llama_3"](), tmp_path)
    for own, said in ((None, True), (True, True), (False, False)):
        sized(tmp_path, use_token_compression=own)
        answer = tangovlm.ask(clip, QUESTION, model=tangovlm.load(tmp_path), max_new_tokens=1)
        assert any("use_token_compression" in note for note in answer.notes) is said


def test_the_preprocessor_config_is_that_of_transformers(tmp_path: Path) -> None:
    """The processor's config takes precedence over that of videos, and that over the one of images."""
    assert preprocessor_config(str(tmp_path), local=True) == {}
    for number, name in enumerate(("preprocessor_config.json", "video_preprocessor_config.json")):
        (tmp_path / name).write_text(json.dumps({"number": number}))
        assert preprocessor_config(str(tmp_path), local=True) == {"number": number}
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "X"}))
    assert preprocessor_config(str(tmp_path), local=True) == {"number": 1}
    (tmp_path / "processor_config.json").write_text(json.dumps({"video_processor": {"number": 2}}))
    assert preprocessor_config(str(tmp_path), local=True) == {"number": 2}


def test_another_size_of_frames(loaded: tuple[VideoLLM, Twin]) -> None:
    """Frames that were not resized while decoding."""
    llm, _ = loaded
    frames = torch.randint(0, 256, (FRAMES, 3, 90, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    pixels = llm.family.prompt.pixels(frames, llm.config)
    inputs = llm.family.prompt.inputs(llm.tokenizer, llm.template, pixels, QUESTION)
    output = llm.model.generate(**inputs, max_new_tokens=1)
    assert output.shape[1] == inputs["input_ids"].shape[1] + 1
