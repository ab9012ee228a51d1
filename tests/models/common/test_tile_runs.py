"""Frames told from images in prompts that have one placeholder for both."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from tangovlm.errors import InputError
from tangovlm.models.common.tile_runs import (
    FrameText,
    Picture,
    _only_way,
    find_pictures,
    group_videos,
    last_tiles,
    mismatch_message,
)

# "Frame12: <img>..</img>\n" and "\nFrame from 01:12:<mark><whole>..<mark>" in tokens; digits are 10 to 19.
P, NEWLINE, FRAME, COLON, START, END, FROM, MARK, WHOLE = 1, 2, 3, 4, 5, 6, 7, 8, 9
COUNTED = FrameText(shortest=5, longest=16, prefix=1, suffix=2, numbered=True)
TIMED = FrameText(shortest=11, longest=24, prefix=2, suffix=3, numbered=False)
TILE = 3


def image(tiles: int = 1) -> list[int]:
    return [START, *[P] * TILE * tiles, END]


def counted(frames: int, first: int = 1) -> list[int]:
    ids: list[int] = []
    for number in range(first, first + frames):
        digits = [10 + int(digit) for digit in str(number)]
        ids += [*([NEWLINE] if ids else []), FRAME, *digits, COLON, *image()]
    return ids


def timed(seconds: list[int]) -> list[int]:
    ids = [*range(30, 50), NEWLINE]
    for time in seconds:
        digits = [10 + int(digit) for digit in f"{time // 60:02d}{time % 60:02d}"]
        text = [NEWLINE, FRAME, FROM, 60, *digits[:2], COLON, *digits[2:], COLON]
        ids += [*text, MARK, WHOLE, *[P] * TILE, MARK]
    return [*ids, 62]


def videos_of(
    ids: list[int] | list[list[int]], frames: tuple[int, ...] | None = None, frame_text: FrameText = COUNTED
) -> list:
    """Videos as (row, number of the first picture in its row, frames)."""
    rows = ids if isinstance(ids[0], list) else [ids]
    longest = max(map(len, rows))
    pictures = find_pictures(torch.tensor([[0] * (longest - len(row)) + row for row in rows]), P, TILE)
    order = [[picture for picture in pictures if picture.entry == row] for row in range(len(rows))]
    return [
        (video[0].entry, order[video[0].entry].index(video[0]), len(video))
        for video in group_videos(pictures, frames, frame_text)
    ]


def test_find_pictures() -> None:
    ids = torch.tensor([[50, *[P] * 6, 51, 52, *[P] * 3], [*[P] * 3, 51, 52, 53, 54, 55, 56, *[P] * 3]])
    assert find_pictures(ids, P, TILE) == [
        Picture(0, 1, 6, 2, (50,)),
        Picture(0, 9, 3, 1, (51, 52)),
        Picture(1, 0, 3, 1, ()),
        Picture(1, 9, 3, 1, (51, 52, 53, 54, 55, 56)),
    ]
    # A model may say a placeholder.
    assert find_pictures(torch.tensor([[50, P, P, P, 51, P, 52, P, P, P]]), P, TILE)[1] == Picture(
        0, 7, 3, 1, (51, P, 52)
    )


@pytest.mark.parametrize("frames", [2, 9, 12, 123])
def test_counted_frames_are_a_video(frames: int) -> None:
    assert videos_of([50, 51, *counted(frames), 52]) == [(0, 0, frames)]
    assert videos_of([50, 51, *counted(frames), 52], (frames,)) == [(0, 0, frames)]


@pytest.mark.parametrize("seconds", [[0, 1], [0, 0, 1, 1], [58, 59, 60, 61], [599, 600, 3000], [7] * 5, [5999, 6000]])
def test_timed_frames_are_a_video(seconds: list[int]) -> None:
    assert videos_of([50, 51, *timed(seconds), 52], None, TIMED) == [(0, 0, len(seconds))]
    assert videos_of([50, *timed(seconds), *timed(seconds)], None, TIMED) == [
        (0, 0, len(seconds)),
        (0, len(seconds), len(seconds)),
    ]


@pytest.mark.parametrize("frame_text", [COUNTED, TIMED])
def test_images_are_no_video(frame_text: FrameText) -> None:
    alone, cut = [50, *image(), 51], [50, *image(4), NEWLINE, *image(4), 51]
    side_by_side = [50, *image(), NEWLINE, *image(), NEWLINE, *image(), 51]
    tiles = [50]
    for tile in range(4):
        tiles += [MARK, 20 + tile, *[P] * TILE]
    described = [50, *image(), *range(20, 26), *image(), *range(40, 46), *image(), 51]
    for ids in (alone, cut, side_by_side, tiles, described, counted(1)):
        assert videos_of(ids, None, frame_text) == []
        # Times were given once for all calls, and this one has no video.
        assert videos_of(ids, (16,), frame_text) == []


@pytest.mark.parametrize("frames", [None, (4,)])
def test_an_image_at_a_video_is_left_out(frames: tuple[int, ...] | None) -> None:
    assert videos_of([50, *image(), NEWLINE, *counted(4), 51], frames) == [(0, 1, 4)]
    assert videos_of([50, *counted(4), NEWLINE, *image(), 51], frames) == [(0, 0, 4)]
    assert videos_of([50, *counted(4), NEWLINE, *image(2), NEWLINE, *image(), 51], frames) == [(0, 0, 4)]
    assert videos_of([50, MARK, WHOLE, P, P, P, MARK, *timed([0, 1, 1, 2])], frames, TIMED) == [(0, 1, 4)]
    assert videos_of([50, *timed([0, 1, 1, 2]), MARK, WHOLE, P, P, P, MARK], frames, TIMED) == [(0, 0, 4)]


@pytest.mark.parametrize("frames", [None, (12, 4)])
def test_counting_from_one_is_another_video(frames: tuple[int, ...] | None) -> None:
    assert videos_of([50, *counted(12), NEWLINE, *counted(4), 51], frames) == [(0, 0, 12), (0, 12, 4)]


def test_prompts_of_a_batch_share_no_video() -> None:
    rows = [[50, *counted(2)], [51, 52, *counted(2)]]
    assert videos_of(rows) == [(0, 0, 2), (1, 0, 2)]
    # One number stands for all videos of a call.
    assert videos_of(rows, (2,)) == videos_of(rows, (2, 2)) == [(0, 0, 2), (1, 0, 2)]
    with pytest.raises(InputError, match="videos of 4 frames.*series of 2, 2 pictures"):
        videos_of(rows, (4,))


def test_single_frames_need_their_times() -> None:
    assert videos_of([50, *counted(1), 51], (1,)) == [(0, 0, 1)]
    assert videos_of([[50, *counted(1), 51], [50, *counted(1), 51]], (1, 1)) == [(0, 0, 1), (1, 0, 1)]
    with pytest.raises(InputError, match="videos of 1 frames.*series of 1, 1 pictures: give times for each"):
        videos_of([50, *image(), NEWLINE, *counted(1), 51], (1,))


def test_times_that_do_not_fit_are_refused() -> None:
    ids = [50, *image(), NEWLINE, *counted(7), 51]
    for frames in ((8,), (6,), (7, 1, 1)):
        with pytest.raises(InputError, match="but the prompt has series of 1, 7 pictures"):
            videos_of(ids, frames)
    # Which of two like videos the times are for cannot be known.
    with pytest.raises(InputError, match="series of 3, 3, 2"):
        videos_of([50, *counted(3), NEWLINE, *counted(3), NEWLINE, *counted(2)], (3, 2))


def test_without_text_the_numbers_decide() -> None:
    ids = [50, *[token for _ in range(5) for token in image()], 51]
    assert videos_of(ids) == []
    assert videos_of(ids, (2, 3)) == [(0, 0, 2), (0, 2, 3)]


def test_conversation_encodes_the_last_pictures() -> None:
    pictures = find_pictures(torch.tensor([[*image(2), *counted(3), *image()]]), P, TILE)
    assert last_tiles(pictures, 6) == pictures
    assert last_tiles(pictures, 4) == pictures[1:]
    assert last_tiles(pictures, 0) == []
    for tiles in (5, 7):
        with pytest.raises(InputError, match=f"for 6 pictures or tiles of pictures, but {tiles} are given: make both"):
            last_tiles(pictures, tiles)


def test_copies_for_beams_are_named() -> None:
    """Older releases repeat every tile by itself, so that the pictures of a prompt are torn apart."""
    assert mismatch_message(8, 16).endswith("for several beams or answers, ask for one")
    for there, tiles in ((8, 12), (8, 4), (0, 4)):
        assert mismatch_message(there, tiles).endswith("own processor")


def brute_force(lengths: list[int], frames: list[int]) -> list[list[list[int]]]:
    if not lengths:
        return [] if frames else [[]]
    ways = [[[], *rest] for rest in brute_force(lengths[1:], frames)]
    for count in range(1, len(frames) + 1):
        if sum(frames[:count]) == lengths[0]:
            ways += [[frames[:count], *rest] for rest in brute_force(lengths[1:], frames[count:])]
    return ways


def test_the_only_way_is_found_if_there_is_one() -> None:
    for size, videos_ in product((1, 2, 3), (1, 2)):
        for lengths in product((1, 2, 3), repeat=size):
            for frames in product((1, 2), repeat=videos_):
                ways = brute_force(list(lengths), list(frames))
                assert _only_way(lengths, frames) == (ways[0] if len(ways) == 1 else None)
