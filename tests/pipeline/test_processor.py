"""`VideoLLM.processor`: conversations and videos into what every family's model takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tangovlm
from tangovlm.errors import InputError, ModelError, TangoError
from tangovlm.families.llava_video import time_instruction
from tangovlm.loading import VideoLLM
from tangovlm.video import decode
from tests.families.test_generate import HOSTS
from tests.pipeline.checkpoints import write_clip
from tests.pipeline.test_families import FRAMES, write_checkpoint

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
def test_a_conversation_is_what_ask_asks(llm: VideoLLM, clip: Path) -> None:
    seconds = decode(clip, FRAMES).timestamps_s
    question = QUESTION
    if llm.family.name == "llava-video":
        # Which `ask` says in front of the question, and a processor does not.
        question = f"{time_instruction(seconds.tolist())}\n{QUESTION}"
    inputs = llm.processor.apply_chat_template(turns(clip, question), add_generation_prompt=True, tokenize=True)
    with tangovlm.attach(llm.model, tangovlm.Tango(retention=0.3), timestamps=seconds):
        said = llm.model.generate(**inputs, **GREEDY)[0, inputs["input_ids"].shape[1] :]
    answer = tangovlm.ask(clip, QUESTION, model=llm, retention=0.3, max_new_tokens=3)
    assert llm.processor.decode(said, skip_special_tokens=True).strip() == answer


def test_a_batch_answers_as_each_by_itself(llm: VideoLLM, clip: Path) -> None:
    """Two videos in a prompt beside one, padded on the left; the stock model reads them."""
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
    with pytest.raises(InputError, match=f"video 0 has {FRAMES} frames but 2 timestamps"):
        processor(f"{token} w12", clip, timestamps=[[0.0, 1.0]])
    with pytest.raises(InputError, match="a video is a path, Frames, or uint8 frames"):
        processor(f"{token} w12", {"no": "video"})
    with pytest.raises(InputError, match="this processor makes torch tensors of videos"):
        processor(text=token, images=[clip], return_tensors="pt", padding=True)
    with pytest.raises(InputError, match="names no video"):
        processor.apply_chat_template(turns(None), tokenize=True)
    with pytest.raises(TangoError, match="cannot be read"):
        processor(f"{token} w12", "none.mp4")


def test_a_template_that_is_broken(llm: VideoLLM) -> None:
    if llm.family.template(None) is not None:
        pytest.skip("the family brings its own template")
    broken = type(llm.processor)(llm.family, llm.tokenizer, "{{ raise }", llm.config, llm.processor.read)
    with pytest.raises(ModelError, match="chat template"):
        broken.apply_chat_template(turns("clip.mp4"))
