"""Tests that the thinkers of Qwen's Omni models pass: vLLM with the plug-in against transformers without it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from tangovlm.errors import InputError
from tangovlm.models.qwen2_5_omni import Thinker
from tests.support.serve.engine import SAMPLES_PER_S, Reply, Request, answers
from tests.support.serve.omni_oracle import OmniOracle
from tests.support.serve.qwen_checkpoints import PIXELS
from tests.support.serve.qwen_requests import check, image, video

OPTIONS: dict[str, Any] = {"max_model_len": 2048, "block_size": 32, "mm_processor_kwargs": {"size": PIXELS}}
PRUNED: dict[str, Any] = OPTIONS | {"hf_overrides": {"tango": {"retention": 0.1}}}


def sound(seed: int, seconds: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, seconds * SAMPLES_PER_S).astype(np.float32)


class OmniCases:
    """For one checkpoint, whose special tokens are `words`."""

    make: ClassVar[Callable[[Path], Path]]
    family: ClassVar[type[Thinker]]
    words: ClassVar[tuple[str, ...]]

    @classmethod
    def asked(cls, question: str, *media: str) -> str:
        places = {"video": (0, 3, 1), "image": (0, 2, 1), "audio": (4, 6, 5)}
        shown = "".join(cls.words[place] for kind in media for place in places[kind])
        return f"<|im_start|>user\n{shown}{question}<|im_end|>\n<|im_start|>assistant\n"

    @classmethod
    def requests(cls) -> list[Request]:
        """Retentions, sound beside a video, in both orders, and several of each."""
        one, asked = cls.asked("What?", "video"), cls.asked
        return [
            *(Request(one, (video(0, 16),), retention=retention) for retention in (1.0, 0.2, None)),
            Request(asked("What?", "video", "audio"), (video(1, 7, 64, 96),), sounds=(sound(0, 1),), retention=0.2),
            Request(asked("Who?", "audio", "video", "image"), (video(2, 8),), (image(0),), (sound(1, 2),)),
            Request(asked("Who?", "audio"), sounds=(sound(2, 1),)),
            Request(asked("Who?", "video", "video"), (video(3, 8), video(4, 6, 64, 96))),
        ]

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return cls.make(tmp_path_factory.mktemp("checkpoint") / "omni")

    @pytest.fixture(scope="class")
    @classmethod
    def replies(cls, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[Reply]]:
        """All requests of one engine at once, and then the pruned video again."""
        requests = cls.requests()
        batches = [requests, requests[1:2]]
        return answers(tmp_path_factory.mktemp("engine"), batches, model=str(folder), **PRUNED)

    def test_replies(self, replies: list[list[Reply]], folder: Path) -> None:
        oracle = OmniOracle.of(folder, self.family)
        for request, reply in zip(self.requests(), replies[0], strict=True):
            check(reply, oracle.reply(request))
        ((again,),) = replies[1:]
        assert again.cached_tokens > 0
        check(again, replies[0][1])

    def test_chunks_and_another_method(self, folder: Path, tmp_path: Path) -> None:
        """The method reads keys."""
        requests = self.requests()[1:5]
        options = {"max_num_batched_tokens": 64, "hf_overrides": {"tango": {"method": "visionzip"}}}
        (told,) = answers(tmp_path, [requests], model=str(folder), **(OPTIONS | options))
        oracle = OmniOracle.of(folder, self.family, "visionzip")
        for request, reply in zip(requests, told, strict=True):
            check(reply, oracle.reply(request))

    def test_sound_inside_a_video(self, folder: Path) -> None:
        """Refused if the video is pruned, and else as stock code writes it."""
        ours, stock = self.processor(folder, PRUNED), self.processor(folder, OPTIONS)
        (frames, metadata), heard = video(0, 8), sound(0, 2)
        prompt = self.asked("What?", "video")

        def told(processor: Any, clip: Any, **kwargs: Any) -> Any:
            items = processor.info.parse_mm_data({"video": [clip], "audio": [(heard, SAMPLES_PER_S)]})
            return processor(prompt, items, hf_processor_mm_kwargs={"use_audio_in_video": True} | kwargs)

        with pytest.raises(InputError, match=r"use_audio_in_video with retention 0\.1: .* send it beside the video"):
            told(ours, (frames, metadata))
        whole = told(ours, (frames, metadata), tango_retention=1.0)
        assert whole["prompt_token_ids"] == told(stock, frames)["prompt_token_ids"]

    def test_a_video_without_metadata_has_no_times(self, folder: Path) -> None:
        items = (processor := self.processor(folder, PRUNED)).info.parse_mm_data({"video": [video(0, 8)[0]]})
        told = processor(self.asked("What?", "video"), items, hf_processor_mm_kwargs={})
        assert told["mm_kwargs"]["video"][0]["tango_timestamps"].data.numel() == 0

    @staticmethod
    def processor(folder: Path, options: dict[str, Any]) -> Any:
        from vllm.engine.arg_utils import EngineArgs
        from vllm.multimodal import MULTIMODAL_REGISTRY

        config = EngineArgs(model=str(folder), dtype="float32", **options).create_model_config()
        return MULTIMODAL_REGISTRY.create_processor(config)
