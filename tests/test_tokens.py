"""Validation of what users hand in."""

from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch

from tangovlm import Report, TangoError, VideoTokens
from tangovlm.errors import InputError
from tangovlm.tokens import VideoReport


def good() -> dict[str, Any]:
    return {
        "features": torch.ones(2, 3, 4, 5),
        "saliency": torch.ones(2, 3, 4),
        "timestamps": torch.tensor([0.0, 0.5]),
        "frame_features": torch.ones(2, 6),
        "keys": torch.ones(2, 3, 4, 7),
        "sink_tokens": (0, 11),
    }


def test_sizes() -> None:
    tokens = VideoTokens(**good())
    assert (tokens.frames, tokens.height, tokens.width, tokens.dim, tokens.count) == (2, 3, 4, 5, 24)
    with pytest.raises(FrozenInstanceError):
        tokens.features = torch.ones(1, 1, 1, 1)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("features", [[1.0]]),
        ("features", torch.ones(2, 12, 5)),
        ("features", torch.ones(0, 3, 4, 5)),
        ("features", torch.ones(2, 3, 4, 0)),
        ("features", torch.ones(2, 3, 4, 5, dtype=torch.int64)),
        ("features", torch.ones(2, 3, 4, 5).to(torch.float8_e4m3fn)),
        ("features", torch.full((2, 3, 4, 5), float("nan"))),
        ("features", torch.full((2, 3, 4, 5), float("inf"), dtype=torch.float16)),
        ("saliency", torch.ones(2, 12)),
        ("saliency", torch.ones(2, 4, 3)),
        ("saliency", -torch.ones(2, 3, 4)),
        ("saliency", torch.full((2, 3, 4), float("nan"))),
        ("timestamps", [0.0, 0.5]),
        ("timestamps", torch.zeros(3)),
        ("timestamps", torch.zeros(2)),
        ("timestamps", torch.tensor([1.0, 0.5])),
        ("timestamps", torch.tensor([0.0, float("nan")])),
        ("timestamps", torch.tensor([False, True])),
        ("frame_features", torch.ones(3, 6)),
        ("keys", torch.ones(2, 4, 3, 7)),
        ("sink_tokens", (12,)),
        ("sink_tokens", (-1,)),
        ("sink_tokens", (1.0,)),
        ("sink_tokens", 5),
    ],
)
def test_bad_values_raise_one_line_that_names_the_field(field: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"VideoTokens\.{field}") as caught:
        VideoTokens(**{**good(), field: value})
    assert "\n" not in str(caught.value)


def test_integer_seconds_will_do() -> None:
    assert VideoTokens(**{**good(), "timestamps": torch.tensor([3, 9])}).frames == 2


def test_messages_are_one_line() -> None:
    assert str(TangoError("two\n  lines ")) == "two lines"
    assert isinstance(TangoError(""), ValueError)


def test_report_sums_its_videos() -> None:
    report = Report((VideoReport(100, 10, 0.1, "tango", (4,)), VideoReport(50, 5, 0.1, "tango", (2,))), {"encode": 1.0})
    assert (report.tokens_before, report.tokens_after) == (150, 15)
    assert Report().tokens_after == 0


def test_a_report_prints_one_line_per_video_then_times_and_notes() -> None:
    note = "no timestamps given"
    first = VideoReport(6272, 764, 0.1, "tango+fastv", (8, 24), {"prune": 21.04}, (note,), (764, 764, 382), 32, 30)
    second = VideoReport(50, 5, 0.1, "topk", (1,), tokens_per_layer=(5, 2, 1, 1))
    report = Report((first, second), {"encode": 812.44, "prune": 21.04}, ("slow kernel", note))
    assert str(report).splitlines() == [
        "2 videos: 6322 -> 769 visual tokens (12.2 %)",
        "  video 1: tango+fastv: 6272 -> 764 tokens (12.2 %), 32 -> 30 newlines, 2 segments of 8 and 24 frames, "
        "764 tokens in layers 0-1, 382 tokens in layer 2, prune 21.0 ms",
        "  video 2: topk: 50 -> 5 tokens (10.0 %), 1 segment of 1 frame, 5 tokens in layer 0, 2 tokens in layer 1, "
        "1 token in layers 2-3",
        "times: encode 812.4 ms, prune 21.0 ms",
        "note: slow kernel",
        "note: no timestamps given",
    ]
    assert str(first).splitlines()[1:] == ["note: no timestamps given"]
    assert str(first).splitlines()[0] == str(report).splitlines()[1].removeprefix("  video 1: ")
    assert repr(first).startswith("VideoReport(tokens_before=6272, tokens_after=764, ")
    assert repr(report).startswith("Report(videos=(VideoReport(")


def test_many_segments_print_the_range_of_their_lengths() -> None:
    report = VideoReport(100, 10, 0.1, "tango", (2, 1, 1, 1, 5, 1, 1, 1, 1))
    assert str(report) == "tango: 100 -> 10 tokens (10.0 %), 9 segments of 1 to 5 frames"
    assert str(Report()) == "no videos"
    assert str(Report(notes=("features were passed in place of pixels",))) == (
        "no videos\nnote: features were passed in place of pixels"
    )
