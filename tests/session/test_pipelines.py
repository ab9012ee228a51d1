"""transformers' own pipelines, called inside `attach`, give the pruned answer.

Once with the stock processor where torchvision is installed, which it needs, and once with one that does the same with
torch only. The stock one decodes files with torchcodec, so that videos are handed over as frames.
"""

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from transformers import AutoTokenizer, BatchFeature, LlavaOnevisionForConditionalGeneration, pipeline
from transformers.video_utils import VideoMetadata

import tangovlm
from tangovlm.inputs.pixels import PixelSpec, prepare_pixels
from tangovlm.selfcheck.twins.common.norms import Norms
from tangovlm.tokens import Selection, VideoTokens
from tests.support.checkpoints import SIDE, TEMPLATE, write_checkpoint

FRAMES, NEW = 4, 5
INDICES = [0, 3, 4, 9]
SPEC = PixelSpec((SIDE, SIDE), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
TASKS = ["image-text-to-text", "any-to-any"]


@dataclass(frozen=True)
class Times(Norms):
    """A method that records the timestamps of its inputs."""

    seen: list[Any] = field(default_factory=list)
    needs: ClassVar[frozenset[str]] = frozenset({"timestamps"})

    def __call__(self, tokens: VideoTokens) -> Selection:
        self.seen.append(tokens.timestamps)
        return super().__call__(tokens)


class TorchProcessor:
    """The part of `LlavaOnevisionProcessor` that the pipelines use, for chats with one video each."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.chat_template = TEMPLATE

    def post_process_multimodal_output(self, sequences: Any, skip_special_tokens: bool = True, **_: Any) -> list[str]:
        return self.tokenizer.batch_decode(sequences, skip_special_tokens=skip_special_tokens)

    post_process_image_text_to_text = post_process_multimodal_output

    def apply_chat_template(self, chats: Any, processor_kwargs: Any = None, **_: Any) -> BatchFeature:
        chats = [chats] if isinstance(chats[0], dict) else chats
        videos = [part["video"] for chat in chats for part in chat[0]["content"] if part["type"] == "video"]
        pixels = torch.stack([prepare_pixels(torch.from_numpy(video).permute(0, 3, 1, 2), SPEC) for video in videos])
        texts = [self.tokenizer.apply_chat_template(chat, chat_template=TEMPLATE, tokenize=False) for chat in chats]
        places = "<video>" * (pixels.shape[1] * 16 + 1)
        encoded = self.tokenizer(
            [text.replace("<video>", places) for text in texts], padding=True, padding_side="left", return_tensors="pt"
        )
        inputs = {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}
        options = processor_kwargs or {}
        if options.get("return_metadata"):
            inputs["video_metadata"] = options["video_metadata"]
        return BatchFeature(inputs | {"pixel_values_videos": pixels})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return LlavaOnevisionForConditionalGeneration.from_pretrained(folder).eval()


@pytest.fixture(params=["stock", "torch only"])
def processor(request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if request.param == "torch only":
        # This pipeline requires torchvision, which the processor does not use.
        monkeypatch.setattr("transformers.pipelines.any_to_any.requires_backends", lambda *_: None)
        return TorchProcessor(tokenizer)
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    from transformers import LlavaOnevisionImageProcessor, LlavaOnevisionProcessor, LlavaOnevisionVideoProcessor

    pixels = {"size": {"height": SIDE, "width": SIDE}, "image_mean": SPEC.mean, "image_std": SPEC.std}
    return LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(**pixels),
        tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(**pixels),
        num_image_tokens=64,
        vision_feature_select_strategy="full",
        chat_template=TEMPLATE,
    )


def chat(seed: int, question: str) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)
    video = torch.randint(0, 256, (FRAMES, 64, 96, 3), generator=generator, dtype=torch.uint8).numpy()
    return [{"role": "user", "content": [{"type": "video", "video": video}, {"type": "text", "text": question}]}]


def said(task: str, model: Any, processor: Any, chats: Any, **options: Any) -> list[str]:
    asked = pipeline(task, model=model, processor=processor)
    options = {"do_sample_frames": False} | options
    answers = asked(
        text=chats,
        max_new_tokens=NEW,
        return_full_text=False,
        generate_kwargs={"do_sample": False},
        processor_kwargs=options,
    )
    flat = [answer[0] if isinstance(answer, list) else answer for answer in answers]
    return [answer["generated_text"].strip() for answer in flat]


def by_hand(model: Any, processor: Any, messages: Any) -> str:
    inputs = processor.apply_chat_template(
        messages,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
        processor_kwargs={"do_sample_frames": False},
    )
    output = model.generate(**inputs, max_new_tokens=NEW, do_sample=False)
    return processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


@pytest.mark.parametrize("task", TASKS)
def test_the_pruned_answer(model: Any, processor: Any, task: str) -> None:
    chats = [chat(1, "w20 w21"), chat(2, "w30 w22 w23")]
    plain = [said(task, model, processor, one)[0] for one in chats]
    assert plain == [by_hand(model, processor, one) for one in chats]
    with tangovlm.attach(model, tangovlm.Tango(retention=0.3)) as session:
        pruned = [said(task, model, processor, one)[0] for one in chats]
        assert [video.tokens_after for video in session.report.videos] == [19, 19]
        assert pruned == [by_hand(model, processor, one) for one in chats]
        # Several chats in one call, one after another.
        assert said(task, model, processor, chats) == pruned
    assert pruned != plain
    assert said(task, model, processor, chats[0]) == plain[:1]


@pytest.mark.parametrize("task", TASKS)
def test_timestamps_reach_the_method(model: Any, processor: Any, task: str) -> None:
    metadata = VideoMetadata(total_num_frames=12, fps=5.0, duration=2.4, width=96, height=64, frames_indices=INDICES)
    recorder, own = Times(), torch.tensor([0.0, 1.0, 5.0, 6.0])
    with tangovlm.attach(model, recorder):
        said(task, model, processor, chat(1, "w20"), return_metadata=True, video_metadata=[metadata])
        said(task, model, processor, chat(1, "w20"))
    with tangovlm.attach(model, recorder, timestamps=own):
        said(task, model, processor, chat(1, "w20"))
    told, untold, given = recorder.seen
    assert told.tolist() == pytest.approx([index / 5.0 for index in INDICES])
    assert untold is None
    assert torch.equal(given, own)
