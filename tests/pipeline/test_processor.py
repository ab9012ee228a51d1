"""`VideoLLM.processor` makes model inputs from conversations and videos, for every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tangovlm
from tangovlm.errors import InputError, ModelError, TangoError
from tangovlm.inputs import timestamps
from tangovlm.models.llava_video import time_instruction
from tangovlm.pipeline.load import VideoLLM
from tangovlm.video import decode
from tests.pipeline.test_ask_families import FRAMES, write_checkpoint
from tests.session.test_generate_families import HOSTS
from tests.support.checkpoints import write_clip
from tests.support.clips import write

QUESTION = "w12 w30 w41"
GREEDY: dict[str, Any] = {"max_new_tokens": 3, "do_sample": False}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


@pytest.fixture(scope="module", params=HOSTS)
def llm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VideoLLM:
    folder, host = tmp_path_factory.mktemp(request.param), HOSTS[request.param]()
    write_checkpoint(host, folder)
    return tangovlm.load(folder)


def turns(video: Any, question: str = QUESTION) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "video", "video": video}, {"type": "text", "text": question}]}]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_conversation_has_the_prompt_of_ask(llm: VideoLLM, clip: Path) -> None:
    """The times of the file are included, and returned unchanged."""
    question = QUESTION
    if llm.family.name == "llava-video":
        # `ask` writes it before the question; the processor does not.
        question = f"{time_instruction(decode(clip, FRAMES).timestamps_s.tolist())}\n{QUESTION}"
    options: dict[str, Any] = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
    inputs = llm.processor.apply_chat_template(turns(clip, question), **options, return_metadata=True)
    (seconds,) = timestamps.from_metadata(inputs["video_metadata"])
    assert seconds is not None
    assert torch.equal(seconds, decode(clip, FRAMES).timestamps_s)
    with tangovlm.attach(llm.model, tangovlm.Tango(retention=0.3)) as session:
        said = llm.model.generate(**inputs, **GREEDY)[0, inputs["input_ids"].shape[1] :]
    answer = tangovlm.ask(clip, QUESTION, model=llm, retention=0.3, max_new_tokens=3)
    assert llm.processor.decode(said, skip_special_tokens=True).strip() == answer
    assert not any("timestamps" in note for note in session.report.notes)
    fewer = llm.processor.apply_chat_template(turns(clip), **options, num_frames=2, return_metadata=True)
    assert len(fewer["video_metadata"][0]["frames_indices"]) == 2


def test_a_clip_that_starts_late_has_the_same_prompt(llm: VideoLLM, tmp_path: Path) -> None:
    """Times start at 0, whatever the stream's own clock says."""
    early, late = (write(tmp_path / f"{start}.mkv", [start + 40 * i for i in range(30)]) for start in (0, 100_000))
    made = [llm.processor.apply_chat_template(turns(each), tokenize=True, return_dict=True) for each in (early, late)]
    assert torch.equal(made[0]["input_ids"], made[1]["input_ids"])
    assert decode(late, 4).start_s == pytest.approx(100)


def test_a_batch_has_the_answers_of_single_prompts(llm: VideoLLM, clip: Path) -> None:
    """A prompt with two videos beside one with a single video, padded on the left, in the stock model."""
    frames = torch.randint(0, 256, (FRAMES, 3, 64, 96), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    processor = llm.processor
    one = processor.apply_chat_template(turns(clip), add_generation_prompt=True)
    both = f"{one} {processor.apply_chat_template(turns(clip, 'w44 w45'), add_generation_prompt=True)}"
    times = [torch.arange(FRAMES) / 2.0] * 3
    together = processor([both, one], [frames, clip, frames], timestamps=times)
    assert together["attention_mask"].sum(dim=1).tolist()[1] < together["input_ids"].shape[1]
    said = llm.model.generate(**together, **GREEDY)[:, -3:].tolist()
    alone = [processor(both, [frames, clip], timestamps=times[:2]), processor(one, frames, timestamps=times[:1])]
    assert said == [llm.model.generate(**inputs, **GREEDY)[0, -3:].tolist() for inputs in alone]


def test_forms_of_a_video(llm: VideoLLM) -> None:
    frames = torch.randint(0, 256, (FRAMES, 3, 60, 90), generator=torch.Generator().manual_seed(2)).to(torch.uint8)
    prompt = f"w11 {llm.processor.video_token} w12"
    first = llm.processor(prompt, frames)
    for form in (np.ascontiguousarray(frames.permute(0, 2, 3, 1).numpy()), [frames]):
        other = llm.processor(prompt, form)
        assert all(torch.equal(first[name], other[name]) for name in first)


def test_mistakes(llm: VideoLLM, clip: Path) -> None:
    processor, token = llm.processor, llm.processor.video_token
    with pytest.raises(InputError, match="the prompts have 1 video tokens but 2 videos are given"):
        processor(f"{token} w12", [clip, clip])
    with pytest.raises(InputError, match="the prompts have 1 video tokens but 0 videos are given"):
        processor(f"{token} w12")
    with pytest.raises(InputError, match=f"a video has {FRAMES} frames but 2 timestamps"):
        processor(f"{token} w12", clip, timestamps=[[0.0, 1.0]])
    with pytest.raises(InputError, match="a video is a path, Frames, or uint8 frames"):
        processor(f"{token} w12", {"no": "video"})
    with pytest.raises(InputError, match="this processor makes torch tensors of videos"):
        processor(text=token, images=[clip], return_tensors="pt", padding=True)
    with pytest.raises(InputError, match="has no video"):
        processor.apply_chat_template(turns(None), tokenize=True)
    for image in processor.family.prompt.reserved(processor.tokenizer):
        with pytest.raises(InputError, match="represents an image: .* use the processor of transformers"):
            processor(f"{token} {image}", clip)
    with pytest.raises(TangoError, match="cannot be read"):
        processor(f"{token} w12", "none.mp4")


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("one")
    write_checkpoint(HOSTS["llava_onevision"](), folder)
    return tangovlm.load(folder).processor


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "a list of turns"),
        ("w12", "a list of turns"),
        ({"role": "user", "content": "w12"}, "a list of turns"),
        ([{"role": "user"}], "a turn needs"),
        ([{"role": "user", "content": None}], "a turn needs"),
        ([{"content": "w12"}], "a turn needs"),
        ([{"role": "user", "content": ["w12"]}], "a part of a content is of str"),
        ([{"role": "user", "content": [{"type": "image", "image": "a.png"}]}], "'image'.* use the one of transformers"),
        ([{"role": "user", "content": [{"type": "text"}]}], "has no text"),
        ([{"role": "user", "content": [{"type": "video", "url": "clip.mp4"}]}], "has no video"),
    ],
)
def test_invalid_conversations(processor: Any, given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        processor.apply_chat_template(given, tokenize=True)


@pytest.mark.parametrize("option", [{"fps": 2}, {"return_dict": False}, {"return_tensors": "np"}])
def test_options_that_are_refused(processor: Any, option: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="this processor"):
        processor.apply_chat_template([{"role": "user", "content": "w12"}], tokenize=True, **option)


@pytest.mark.parametrize("text", [[], "", None, [3], ["w12", ""]])
def test_invalid_texts(processor: Any, text: Any) -> None:
    with pytest.raises(InputError, match="the text must be a non-empty prompt"):
        processor(text)


@pytest.mark.parametrize(
    "times",
    [[[0.0, float("nan")]], [0.0, float("inf")], [1.0, 0.5], [0.0], [None], [0.0, None], "ab", [[0.0, 1.0]] * 2, 3.0],
)
def test_invalid_times(processor: Any, times: Any) -> None:
    with pytest.raises(InputError, match="timestamps"):
        processor(f"{processor.video_token} w12", torch.zeros(2, 3, 8, 8, dtype=torch.uint8), timestamps=times)


def test_forms_of_times(processor: Any) -> None:
    video = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    for times in (torch.tensor([0.5, 1.5]), [0.5, 1.5], [[0.5, 1.5]], np.array([0.5, 1.5]), [torch.tensor([0.5, 1.5])]):
        inputs = processor(f"{processor.video_token} w12", video, timestamps=times, return_metadata=True)
        assert inputs["video_metadata"] == [{"fps": 1.0, "frames_indices": [0.5, 1.5]}]


def test_metadata_instead_of_times(processor: Any) -> None:
    video, prompt = torch.zeros(2, 3, 8, 8, dtype=torch.uint8), f"{processor.video_token} w12"
    metadata = {"fps": 4.0, "frames_indices": [2, 6], "duration": 2.5, "total_num_frames": 10}
    for form in (metadata, [metadata], [[metadata]]):
        inputs = processor(prompt, video, video_metadata=form, return_metadata=True)
        assert inputs["video_metadata"] == [{"fps": 1.0, "frames_indices": [0.5, 1.5], "duration": 2.5}]
    for wrong, message in (
        ({"video_metadata": metadata, "timestamps": [0.0, 1.0]}, "both timestamps and video_metadata"),
        ({"video_metadata": [metadata, metadata]}, "timestamps for 2 videos, but 1 videos are given"),
        ({"video_metadata": metadata | {"frames_indices": [1]}}, "2 frames but 1 timestamps"),
        ({"video_metadata": 3}, "video_metadata has int"),
    ):
        with pytest.raises(InputError, match=message):
            processor(prompt, video, **wrong)


def test_the_duration_of_a_file_is_included(processor: Any, clip: Path) -> None:
    (told,) = processor(f"{processor.video_token} w12", clip, return_metadata=True)["video_metadata"]
    assert told["duration"] == decode(clip, FRAMES).duration_s == pytest.approx(12 / 5)


def test_invalid_frames(processor: Any) -> None:
    for video in (torch.zeros(0, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, 3, 0, 8, dtype=torch.uint8)):
        with pytest.raises(InputError, match="frames must be uint8"):
            processor(f"{processor.video_token} w12", video)


def test_a_first_token_of_the_template(processor: Any) -> None:
    """A tokenizer that inserts this token does not insert it twice."""

    class Beginning:
        bos_token, pad_token_id, eos_token_id = "w60", 0, None

        def __call__(self, text: str, *, add_special_tokens: bool = True) -> dict[str, list[int]]:
            ids = processor.tokenizer(text)["input_ids"]
            return {"input_ids": [60, *ids] if add_special_tokens else ids}

        def __getattr__(self, name: str) -> Any:
            return getattr(processor.tokenizer, name)

    for text in ("w60 w12", "w12"):
        assert processor.family.prompt.build_inputs(Beginning(), [text], [])["input_ids"].tolist() == [[60, 12]]


def test_an_invalid_template(llm: VideoLLM) -> None:
    if llm.family.prompt.template(None) is not None:
        pytest.skip("the family brings its own template")
    broken = type(llm.processor)(llm.family, llm.tokenizer, "{{ raise }", llm.config, llm.processor.read)
    with pytest.raises(ModelError, match="chat template"):
        broken.apply_chat_template(turns("clip.mp4"))
