"""From frames to answers: prompts, times and tokens with the stock processor's inputs and with this library's."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import tangovlm
from tangovlm import budget
from tangovlm.models.smolvlm import SmolVLM
from tests.processors.cases import NAMES, Case, make
from tests.processors.geometry import frames

GREEDY: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False}
RETENTION = 0.25
SHARED = ("input_ids", "attention_mask", "video_grid_thw", "second_per_grid_ts", "mm_token_type_ids",
          "video_merge_sizes", "video_second_per_grid", "target_sizes_videos", "video_position_ids",
          "num_frames_per_video")  # fmt: skip
"""Arguments that both make alike, where they make them."""


class Timed:
    """`uniform`, which writes down the times that it is shown."""

    def __init__(self) -> None:
        self._inner = tangovlm.method("uniform", retention=RETENTION)
        self.name, self.retention, self.needs = "timed", RETENTION, self._inner.needs | {"timestamps"}
        self.times: list[list[float]] = []

    def __call__(self, tokens: Any) -> Any:
        self.times.append(tokens.timestamps.tolist())
        return self._inner(tokens)


@pytest.fixture(params=NAMES)
def case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Case:
    return make(request.param, monkeypatch)


@pytest.fixture
def smolvlm(monkeypatch: pytest.MonkeyPatch) -> Case:
    return make("smolvlm", monkeypatch)


def sampled(count: int, first: int = 0) -> Any:
    """The metadata of frames that lie apart in a longer video of 10 frames a second."""
    from transformers.video_utils import VideoMetadata

    indices = [first + 7 * number for number in range(count)]
    total = 7 * count + first
    return VideoMetadata(total_num_frames=total, fps=10.0, duration=total / 10, frames_indices=indices)


def both(case: Case, texts: Sequence[str], videos: list[Tensor], metadata: list[Any]) -> tuple[Any, Any, Any]:
    """The stock inputs, their metadata, and ours."""
    waiting = iter(videos)
    # SmolVLM's processor of the oldest release wants those of each prompt together; later ones take both forms.
    nested = [[next(waiting) for _ in range(text.count(case.mark))] for text in texts]
    stock = case.stock(
        text=list(texts), videos=nested if case.name == "smolvlm" else videos, return_tensors="pt", padding=True,
        video_metadata=copy.deepcopy(metadata), do_sample_frames=False, return_metadata=True,
    )  # fmt: skip
    # Not every stock processor returns it.
    told = stock.pop("video_metadata", metadata)
    return stock, told, case.ours(list(texts), videos, video_metadata=metadata)


def answer(case: Case, inputs: Any, **options: Any) -> tuple[list[list[int]], list[list[float]], list[tuple[int, int]]]:
    """Greedy tokens, the times that a method saw, and what the report counts."""
    method = Timed()
    given = {"timestamps": options.pop("timestamps")} if "timestamps" in options else {}
    with tangovlm.attach(case.model, method, **given) as session:
        said = case.model.generate(**inputs, **options, **GREEDY)
    counts = [(video.tokens_before, video.tokens_after) for video in session.report.videos]
    return said[:, inputs["input_ids"].shape[1] :].tolist(), method.times, counts


def check(case: Case, texts: Sequence[str], videos: list[Tensor]) -> None:
    metadata = [sampled(len(video), first) for first, video in enumerate(videos)]
    stock, told, ours = both(case, texts, videos, metadata)
    for name in SHARED:
        if name in ours and name in stock:
            assert torch.as_tensor(ours[name]).tolist() == torch.as_tensor(stock[name]).tolist(), name
    (pixels,) = (name for name in ("pixel_values_videos", "pixel_values") if name in ours)
    assert ours[pixels].shape == stock[pixels].shape
    assert float((ours[pixels] - stock[pixels]).abs().max()) * 0.3 * 255 <= 1
    # The model's own answer needs no times, but for those in the prompt and in its positions.
    assert torch.equal(case.model.generate(**stock, **GREEDY), case.model.generate(**ours, **GREEDY))
    seconds = [torch.tensor(each.frames_indices, dtype=torch.float64) / each.fps for each in metadata]
    wanted = answer(case, stock, video_metadata=told)
    assert len(wanted[1]) == len(videos)
    assert all(after == budget.count(RETENTION, before) for before, after in wanted[2])
    # Metadata that a stock processor returns may hold an index more than it was given.
    assert answer(case, ours, video_metadata=metadata) == wanted
    assert answer(case, ours, timestamps=seconds) == wanted


@pytest.mark.parametrize("count", [2, 4, 7])
@pytest.mark.parametrize("size", [(48, 64), (90, 50)])
def test_a_video(case: Case, count: int, size: tuple[int, int]) -> None:
    check(case, [f"Hi {case.mark}Why?"], [frames(count, *size)])


def test_several_videos(case: Case) -> None:
    """Two in a prompt, and one in a shorter one beside it."""
    texts = [f"Hi {case.mark} and {case.mark}Why?", f"{case.mark}How?"]
    check(case, texts, [frames(4, 48, 64), frames(4, 64, 48, noise=True), frames(4, 42, 42)])


@pytest.mark.parametrize("counts", [(4, 4), (4, 8), (8, 4), (4, 3), (2, 4), (3, 4, 5)])
def test_videos_of_several_lengths_in_a_prompt_of_smolvlm(smolvlm: Case, counts: tuple[int, ...]) -> None:
    assert isinstance(smolvlm.ours.family, SmolVLM)
    videos = [frames(count, 42, 64 + number, noise=number == 1) for number, count in enumerate(counts)]
    check(smolvlm, ["Hi " + " and ".join([smolvlm.mark] * len(counts)) + "Why?"], videos)


def test_videos_of_several_lengths(case: Case) -> None:
    """Where a family takes them in one call."""
    if case.name.startswith(("llava", "internvl", "video_llava")):
        pytest.skip("the stock processor takes videos of one length in a call")
    check(case, [f"{case.mark} {case.mark}Why?", f"{case.mark}How?"], [frames(count, 48, 64) for count in (4, 7, 2)])


def test_a_prompt_without_a_duration(smolvlm: Case) -> None:
    """The time of the last frame stands for it."""
    metadata = sampled(4)
    metadata.duration = None
    stock, _, ours = both(smolvlm, [f"{smolvlm.mark}Why?"], [frames(4, 42, 42)], [metadata])
    assert ours["input_ids"].tolist() == stock["input_ids"].tolist()


def test_stock_processors_read_what_ours_writes(case: Case, tmp_path: Any) -> None:
    """A limit on the size of frames is a field that they do not know, and leave alone."""
    family = case.ours.family
    config = {**case.ours.config, "max_frame_pixels": 32 * 32}
    type(case.ours)(family, case.ours.tokenizer, None, config, case.ours.read).save_pretrained(tmp_path)
    assert type(case.stock.video_processor).from_pretrained(tmp_path).size == case.stock.video_processor.size
