"""Ranks of grid positions against plain counting, and the lists of the release."""

import math

import numpy as np
import pytest
import torch

from tangovlm.errors import InputError
from tangovlm.models.common.sinks import RELEASED, SinkRanks, frame_ranks, released_for_grid, sinks_for_grid


def counted(saliency: np.ndarray) -> np.ndarray:
    """Ranks in [0, 1] of the tokens of one frame, by comparing each with each."""
    return np.array(
        [
            sum(
                float(other < one) + 0.5 * float(other == one) for place, other in enumerate(saliency) if place != index
            )
            / (len(saliency) - 1)
            for index, one in enumerate(saliency)
        ]
    )


def make(frames: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """With ties, as low precision has them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 12, (frames, height, width), generator=generator).float() / 12


def test_mean_and_sd_of_the_ranks() -> None:
    clips = [make(5, 3, 4, seed=1), make(2, 3, 4, seed=2), make(1, 3, 4, seed=3)]
    ranks = SinkRanks()
    for clip in clips:
        ranks.add(clip)
    wanted = np.stack([counted(frame) for clip in clips for frame in clip.flatten(1).numpy()])
    assert (ranks.frames, ranks.grid) == (8, (3, 4))
    np.testing.assert_allclose(ranks.mean, wanted.mean(axis=0), rtol=0, atol=1e-14)
    np.testing.assert_allclose(ranks.sd, wanted.std(axis=0), rtol=0, atol=1e-14)
    np.testing.assert_allclose(ranks.floor, wanted.mean(axis=0) - wanted.std(axis=0), rtol=0, atol=1e-14)
    assert ranks.mean.dtype == ranks.sd.dtype == torch.float64


def test_equal_tokens_share_their_rank() -> None:
    saliency = torch.tensor([[5.0, 1.0, 5.0, 5.0], [0.0, 0.0, 0.0, 0.0]])
    assert frame_ranks(saliency).tolist() == [[4, 0, 4, 4], [3, 3, 3, 3]]


def test_neither_order_nor_division_into_clips_matters() -> None:
    whole, parts = SinkRanks(), SinkRanks()
    video = make(9, 4, 4)
    whole.add(video)
    for part in (video[6:], video[:1], video[1:6]):
        parts.add(part)
    assert torch.equal(whole.mean, parts.mean)
    assert torch.equal(whole.sd, parts.sd)


def test_a_sink_is_high_in_every_frame() -> None:
    video = torch.rand(200, 6, 5, generator=torch.Generator().manual_seed(0))
    video[:, 2, 3] = 2.0
    video[:, 0, 1] = 1.5
    video[::2, 3, 0] = 3.0  # the highest half of the time, anything else otherwise
    ranks = SinkRanks()
    ranks.add(video)
    assert ranks.sinks() == (13, 1)
    assert ranks.order()[:2] == [13, 1]
    assert ranks.mean[15] > 0.7
    assert set(ranks.sinks(0.5)) == {13, 1}
    always = SinkRanks()
    always.add(video[1::2])
    assert always.mean[13] == 1.0
    assert always.sinks(1.0) == (13,)


def test_ties_go_to_the_lowest_position() -> None:
    ranks = SinkRanks()
    ranks.add(torch.ones(3, 2, 2))
    assert ranks.order() == [0, 1, 2, 3]
    assert ranks.sinks(0.5) == (0, 1, 2, 3)


def test_inputs_are_left_as_they_were() -> None:
    video = make(3, 3, 3)
    copy = video.clone()
    SinkRanks().add(video)
    assert torch.equal(video, copy)


@pytest.mark.parametrize(
    ("saliency", "words"),
    [
        (torch.ones(3, 3), "(T, H, W)"),
        (torch.ones(0, 3, 3), "at least one frame"),
        (torch.ones(2, 1, 1), "1 x 1"),
        (torch.full((2, 2, 2), math.nan), "NaN"),
        (torch.full((2, 2, 2), math.inf), "infinite"),
    ],
)
def test_saliency_that_cannot_be_ranked(saliency: torch.Tensor, words: str) -> None:
    with pytest.raises(InputError) as caught:
        SinkRanks().add(saliency)
    assert words in str(caught.value)


def test_another_grid_is_refused_and_both_are_named() -> None:
    ranks = SinkRanks()
    ranks.add(make(2, 3, 4))
    before = ranks.mean
    with pytest.raises(InputError, match="4 x 3 tokens here and 3 x 4 before"):
        ranks.add(make(2, 4, 3))
    assert ranks.frames == 2 and torch.equal(ranks.mean, before)


@pytest.mark.parametrize("threshold", [0.49, 1.01, math.nan, -1.0, math.inf])
def test_threshold_out_of_range(threshold: float) -> None:
    ranks = SinkRanks()
    ranks.add(make(2, 3, 4))
    with pytest.raises(InputError, match="threshold is"):
        ranks.sinks(threshold)


def test_nothing_added() -> None:
    with pytest.raises(InputError, match="no frame"):
        _ = SinkRanks().mean


def test_lists_of_the_release() -> None:
    wanted = {
        "llava-onevision": {28: (2, 0), 27: (1, 13), 41: (2, 13), 169: (12, 1), 11: (0, 11), 12: (0, 12)},
        "llava-video": {26: (2, 0), 157: (12, 1), 11: (0, 11)},
    }
    sides = {"llava-onevision": 14, "llava-video": 13}
    assert {entry.family: entry.positions for entry in RELEASED} == {name: tuple(on) for name, on in wanted.items()}
    for entry in RELEASED:
        assert entry.grid == (sides[entry.family],) * 2
        assert {place: divmod(place, entry.grid[1]) for place in entry.positions} == wanted[entry.family]
        assert entry.source.startswith("https://github.com/xjtupanda/Tango/blob/cc815b6/")
        assert released_for_grid(*entry.grid) is entry
        assert sinks_for_grid(*entry.grid) == entry.positions
    assert released_for_grid(13, 14) is None
