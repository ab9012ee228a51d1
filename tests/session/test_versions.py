"""Differences between releases of transformers: which inputs are copied for beams, and when videos are encoded."""

import inspect
from typing import Any

import pytest
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.video_utils import VideoMetadata

import tangovlm
from tangovlm.models.common.layout import Grid
from tangovlm.models.common.transformers_compat import copies_prompts, encodes_first, pixels_name
from tangovlm.registry import family_for
from tangovlm.selfcheck.twins.common.parts import IMAGE, PAD, VIDEO, VOCABULARY
from tangovlm.session.placeholders import match_copies
from tests.session.test_attach import Recorder
from tests.support.stock import OLDEST
from tests.support.tiny_models import make_model, make_videos, pad_left, placeholders, words

FRAMES, BEAMS = 4, 2
TIMES = [[0, 1, 2, 4], [5, 6, 8, 11], [2, 9, 20, 40]]


def make_qwen() -> Any:
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 4,
        "out_hidden_size": 48,
        "patch_size": 7,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 28,
        "fullatt_block_indexes": [1],
    }
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]},
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": PAD,
    }
    ids = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": 4, "vision_end_token_id": 5}
    torch.manual_seed(0)
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(vision_config=vision, text_config=text, **ids)).eval()


@pytest.fixture(scope="module")
def llava() -> Any:
    return make_model()


@pytest.fixture(scope="module")
def qwen() -> Any:
    return make_qwen()


def qwen_inputs() -> dict[str, Any]:
    """A prompt with two videos of 2 x 2 x 2 tokens, and one with a single video."""
    video = [4, *[VIDEO] * 8, 5]
    inputs = pad_left(
        [[*words(2, 1), *video, *words(2, 2), *video, *words(3, 3)], [*words(4, 4), *video, *words(3, 5)]]
    )
    pixels = torch.randn(3 * 32, 3 * 2 * 7 * 7, generator=torch.Generator().manual_seed(1))
    return inputs | {
        "pixel_values_videos": pixels,
        "video_grid_thw": torch.tensor([[2, 4, 4]] * 3),
        "mm_token_type_ids": 2 * (inputs["input_ids"] == VIDEO).int(),
    }


def llava_inputs(model: Any) -> dict[str, Any]:
    """Three prompts with a video each."""
    rows = [[*words(2 + number, number), *placeholders(model, FRAMES), *words(3, 9)] for number in range(3)]
    return pad_left(rows) | {"pixel_values_videos": make_videos(model, 3, FRAMES)}


def encoded_times(
    model: Any, inputs: dict[str, Any], alone: list[torch.Tensor], **options: Any
) -> list[tuple[int, Any]]:
    """(video, its timestamps) of all encoded videos; a video is recognized by its features ``(N, D)``."""
    recorder = Recorder([])
    with torch.no_grad(), tangovlm.attach(model, recorder, **options):
        model.generate(**inputs, max_new_tokens=2, do_sample=False, num_beams=BEAMS)
    found = []
    for tokens in recorder.seen:
        gaps = [float((tokens.features.flatten(0, 2) - features).abs().max()) for features in alone]
        assert min(gaps) < 1e-4
        found.append((gaps.index(min(gaps)), tokens.timestamps.tolist()))
    return found


@pytest.mark.parametrize("way", ["metadata", "argument"])
def test_times_of_videos_copied_for_beams(llava: Any, way: str) -> None:
    inputs, seconds = llava_inputs(llava), [torch.tensor(times) / 2.0 for times in TIMES]
    with torch.no_grad():
        rows = llava.model.get_video_features(inputs["pixel_values_videos"], return_dict=True).pooler_output
    options = {"timestamps": seconds} if way == "argument" else {}
    if way == "metadata":
        inputs["video_metadata"] = [[VideoMetadata(50, fps=2.0, frames_indices=times)] for times in TIMES]
    found = encoded_times(llava, inputs, list(rows[:, : FRAMES * 16]), **options)
    assert len(found) == 3 * (BEAMS if OLDEST else 1)
    assert {video for video, _ in found} == {0, 1, 2}
    assert all(times == seconds[video].tolist() for video, times in found)


@pytest.mark.parametrize("way", ["metadata", "argument", "second_per_grid_ts"])
def test_times_of_prompts_copied_for_beams(qwen: Any, way: str) -> None:
    """The first prompt's two videos are copied together."""
    inputs, seconds = qwen_inputs(), [torch.tensor(times) / 2.0 for times in TIMES]
    with torch.no_grad():
        alone = qwen.model.get_video_features(inputs["pixel_values_videos"], inputs["video_grid_thw"], return_dict=True)
    options: dict[str, Any] = {}
    if way == "argument":
        options, wanted = {"timestamps": [times[::2] for times in seconds]}, [times[::2].tolist() for times in seconds]
    elif way == "metadata":
        inputs["video_metadata"] = [[VideoMetadata(50, fps=2.0, frames_indices=times)] for times in TIMES]
        # A step has two frames, and the time of the first.
        wanted = [times[::2].tolist() for times in seconds]
    else:
        inputs["second_per_grid_ts"] = torch.tensor([1.0, 2.0, 3.0])
        wanted = [[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]]
    found = encoded_times(qwen, inputs, list(alone.pooler_output), **options)
    assert len(found) == 3 * (BEAMS if OLDEST else 1)
    assert {video for video, _ in found} == {0, 1, 2}
    for video, times in found:
        assert times == pytest.approx(wanted[video])


def test_order_of_copies(qwen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    family, ids, grid = family_for(qwen)(qwen), qwen_inputs()["input_ids"], Grid(2, 2, 2)
    monkeypatch.setattr("tangovlm.session.placeholders.copies_prompts", lambda model: False)
    assert match_copies(family, ids, [grid] * 6, 3) == [0, 0, 1, 1, 2, 2]
    monkeypatch.setattr("tangovlm.session.placeholders.copies_prompts", lambda model: model is qwen)
    assert match_copies(family, ids, [grid] * 6, 3) == [0, 1, 0, 1, 2, 2]
    assert match_copies(family, ids, [grid] * 9, 3) == [0, 1, 0, 1, 0, 1, 2, 2, 2]
    # Cannot be matched: an odd number, no prompt, another prompt.
    assert match_copies(family, ids, [grid] * 5, 3) == [0, 1, 2]
    assert match_copies(family, None, [grid] * 6, 3) == [0, 1, 2]
    assert match_copies(family, ids[:1], [grid] * 6, 3) == [0, 1, 2]


def test_differences_between_releases(llava: Any, qwen: Any) -> None:
    assert [encodes_first(model) for model in (llava, qwen)] == [not OLDEST] * 2
    assert [copies_prompts(model) for model in (llava, qwen)] == [False, OLDEST]
    arguments = inspect.signature(llava.model.get_video_features).parameters
    assert pixels_name(arguments) in arguments
