"""Which frames are encoded: a plain loop over cells says the same, and small things that appear count."""

import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tangovlm
from tangovlm.errors import InputError
from tangovlm.evaluate.tangoworld import load_questions, render_clip
from tangovlm.models.common.encoding import cell_colors, encoded_frames
from tangovlm.tower.changed import Changed, resolve


def plain(colors: list[Tensor], videos: list[tuple[int, int]], threshold: float) -> list[int]:
    """The frame whose features each frame gets."""
    sources = list(range(len(colors)))
    for start, stop in videos:
        last = start
        for frame in range(start + 1, stop):
            if all(abs(a - b) <= threshold for a, b in zip(colors[frame].tolist(), colors[last].tolist(), strict=True)):
                sources[frame] = last
            else:
                last = frame
    return sources


@given(st.data())
@settings(deadline=None)
def test_rows_are_those_of_a_plain_loop(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    images = data.draw(st.integers(0, 2))
    values = st.lists(st.sampled_from([0.0, 3.0, 8.0, 8.5, 20.0]), min_size=2, max_size=2)
    colors = [torch.tensor(data.draw(values)) for _ in range(images + sum(lengths))]
    ends = [images + sum(lengths[: number + 1]) for number in range(len(lengths))]
    videos = list(zip([images, *ends[:-1]], ends, strict=True))
    threshold = data.draw(st.sampled_from([0.0, 3.0, 8.0]))
    rows = Changed(threshold).rows(colors, videos)
    assert [int(encoded_frames(rows)[row]) for row in rows.tolist()] == plain(colors, videos, threshold)


def test_one_small_thing_counts_and_slow_changes_add_up() -> None:
    frames = torch.zeros(4, 3, 64, 64)
    frames[1, 0, 60:64, 60:64] = 9 / 255
    fading = torch.arange(8).view(8, 1, 1, 1).expand(8, 3, 64, 64) * 3 / 255
    colors = cell_colors(torch.cat([frames, fading]), (1.0, 1.0, 1.0))
    assert Changed().rows(colors, [(0, 4), (4, 12)]).tolist() == [0, 1, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5]
    assert Changed(255).rows(colors, [(0, 4), (4, 12)]).tolist() == [0] * 4 + [1] * 8


def test_a_frame_with_nan_is_encoded() -> None:
    """It is not given the features of another one, which would hide it."""
    colors = [torch.zeros(3), torch.tensor([0.0, math.nan, 0.0]), torch.zeros(3), torch.zeros(3)]
    assert Changed(255).rows(colors, [(0, 4)]).tolist() == [0, 1, 2, 2]


def test_how_much_of_the_benchmark_is_encoded() -> None:
    """Two fifths of the tower's work are saved on still clips, a fifth on calm ones."""
    frames, encoded = Counter[str](), Counter[str]()
    for clip in load_questions()[::6]:
        colors = cell_colors(render_clip(clip.clip(), clip.length).pixels / 255, (1.0, 1.0, 1.0))
        pace = clip.benchmark.cells[clip.cell][1]
        frames[pace] += len(colors)
        encoded[pace] += len(encoded_frames(Changed().rows(colors, [(0, len(colors))])))
    share = {pace: encoded[pace] / count for pace, count in frames.items()}
    assert share["still"] <= 0.6 and share["calm"] <= 0.8 and 0.9 < share["busy"] <= 1


@pytest.mark.parametrize("threshold", [-1, 256, math.nan, "8", True, None])
def test_a_threshold_out_of_range_is_refused(threshold: Any) -> None:
    with pytest.raises(InputError, match="give a number from 0 to 255"):
        Changed(threshold)


@pytest.mark.parametrize("encode", ["some", None, Changed, 8])
def test_other_values_are_refused(encode: Any) -> None:
    with pytest.raises(InputError, match="choose 'all' or 'changed'"):
        resolve(encode)
    with pytest.raises(InputError, match="choose 'all' or 'changed'"):
        tangovlm.ask(torch.zeros(1), "What?", encode=encode)  # type: ignore[arg-type]
