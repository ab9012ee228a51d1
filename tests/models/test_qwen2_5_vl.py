"""Qwen2.5-VL: times of steps, positions with seconds."""

from __future__ import annotations

from typing import Any

import pytest

import tangovlm
from tangovlm.errors import InputError
from tangovlm.models.common.layout import Grid
from tangovlm.models.qwen2_5_vl import Qwen25VL
from tangovlm.selfcheck.twins.common.norms import Norms
from tangovlm.selfcheck.twins.common.parts import RandomWords, Video
from tangovlm.selfcheck.twins.qwen2_5_vl import Qwen25VLTwin
from tests.session.test_generate_families import check
from tests.support.recording import recorded

UNEVEN = (Video(4, 1), Video(6, 2, wide=True))


def test_a_long_video_goes_on_as_the_stock_model_does() -> None:
    """Time runs ahead of the rows and columns of the grid; text goes on behind them, with and without pruning."""
    host = Qwen25VLTwin()
    host.seconds_per_step = 9.0
    check(host, [(RandomWords(3, 1), Video(8, 2), RandomWords(5, 3))], Norms())


def test_all_ways_tell_the_same_times() -> None:
    """`second_per_grid_ts`, which the model places its steps by, the metadata and the caller's own."""
    host = Qwen25VLTwin()
    assert host.seconds_per_step == 2.0
    metadata = [{"fps": 2.0, "frames_indices": [0, 2, 4, 6, 8, 10]}]
    ways: tuple[dict[str, Any], ...] = (
        {}, {"video_metadata": metadata}, {"timestamps": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]}
    )  # fmt: skip
    for way in ways:
        tokens, _ = recorded(host, 6, **way)
        assert tokens.timestamps.tolist() == [0.0, 2.0, 4.0]


def test_wrong_times_are_refused() -> None:
    with pytest.raises(InputError, match="video 0 has 2 steps of 2 frames but 5 timestamps"):
        recorded(Qwen25VLTwin(), 4, timestamps=[0.0, 1.0, 2.0, 3.0, 4.0])
    with pytest.raises(InputError, match="do not increase"):
        recorded(Qwen25VLTwin(), 4, timestamps=[0.0, 1.0, 1.0, 0.0])


def test_contiguous_positions_are_refused() -> None:
    host = Qwen25VLTwin()
    with pytest.raises(InputError, match="'contiguous', but the family qwen2.5-vl keeps M-RoPE positions"):
        tangovlm.attach(host.model, Norms(), positions="contiguous").__enter__()


def test_grids_are_in_tokens() -> None:
    host = Qwen25VLTwin()
    family = Qwen25VL(host.model)
    pixels = host.pixels(UNEVEN)
    layout = family.layout
    assert layout.grids(pixels["pixel_values_videos"], pixels["video_grid_thw"]) == [
        Grid(2, 3, 3),
        Grid(3, 2, 5),
    ]
