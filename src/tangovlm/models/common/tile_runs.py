"""Which pictures of a prompt are frames of a video, for models that have one placeholder for frames and images.

Such a model is handed all pictures of a call in a row. A picture is one *tile*, or several where the processor cuts
large images up; a frame is one tile. In the prompt the placeholders of a picture are a *run*, and stock processors put
text in front of every frame of a video ("Frame1:", "Frame from 00:01:"). So frames of a video are pictures of one tile
with little text between them, which differs in a number only: a *series*.

Times that the caller gives tell how many frames each video has, and must fit the series. Without them every series of
at least two pictures is taken for a video, which the report says, and a single picture for an image.
"""

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional

from ...errors import InputError

# Tokens of the longest number or time that tells frames apart: "100:01" in digits.
_NUMBER = 6
_LENGTHS = [(i, j) for i in range(_NUMBER + 1) for j in range(_NUMBER + 1) if i or j]


class Wording(NamedTuple):
    """Text that the stock processor puts between two frames of a video, with its marks, in tokens.

    Parameters
    ----------
    shortest, longest: how much of it there is; less is between images, more between videos.
    before, behind: how much at least is the same on both sides of the number.
    numbered: frames are counted, from 1, so that equal texts are not of one video.
    """

    shortest: int
    longest: int
    before: int
    behind: int
    numbered: bool


class Run(NamedTuple):
    """The placeholders of one picture.

    Parameters
    ----------
    row: of the batch.
    start: place of the first one in the prompt.
    length: how many there are.
    tiles: of the picture.
    lead: ids between the run before and this one.
    """

    row: int
    start: int
    length: int
    tiles: int
    lead: tuple[int, ...]


def runs(input_ids: Tensor, placeholder: int, tokens: int) -> list[Run]:
    """All pictures of prompts ``(B, Q)``, in order.

    Parameters
    ----------
    tokens: of a tile.
    """
    ids = input_ids.cpu()
    edges = functional.pad((ids == placeholder).int(), (1, 1)).diff(dim=1)
    starts, stops = ((edges == sign).nonzero().tolist() for sign in (1, -1))
    found: list[Run] = []
    row_before, end = -1, 0
    for (row, start), (_, stop) in zip(starts, stops, strict=True):
        tiles, rest = divmod(stop - start, tokens)
        if rest:
            # What a model says is no picture.
            continue
        end = end if row == row_before else 0
        found.append(Run(row, start, stop - start, tiles, tuple(ids[row, end:start].tolist())))
        row_before, end = row, stop
    return found


def last_tiles(pictures: Sequence[Run], tiles: int) -> list[Run]:
    """The last pictures of a prompt that have so many tiles: in a conversation the first ones were encoded before.

    Raises
    ------
    InputError: they do not come out even.
    """
    first, missing = len(pictures), tiles
    while missing > 0 and first > 0:
        first -= 1
        missing -= pictures[first].tiles
    if missing:
        there = sum(picture.tiles for picture in pictures)
        raise InputError(mismatch(there, tiles))
    return list(pictures[first:])


def encoded(prompts: Sequence[Sequence[Run]], tiles: Sequence[int]) -> list[list[Run]]:
    """The pictures of each prompt that a call encodes: all, or the last ones in a conversation.

    Stock code takes them in the order of the prompts, however rows of pixels are made: stock processors make one for
    each prompt, for each video, or for everything together.

    Parameters
    ----------
    prompts: all pictures of each prompt.
    tiles: in each row of pixels.

    Raises
    ------
    InputError: other pictures are encoded.
    """
    there, given = sum(picture.tiles for row in prompts for picture in row), sum(tiles)
    if there == given:
        return [list(row) for row in prompts]
    if len(prompts) == 1:
        return [last_tiles(prompts[0], given)]
    if len(tiles) != len(prompts):
        # Of which prompt some were encoded before could not be told.
        raise InputError(mismatch(there, given))
    return [last_tiles(row, count) for row, count in zip(prompts, tiles, strict=True)]


def mismatch(there: int, tiles: int) -> str:
    """What is wrong where a prompt has placeholders for other pictures than are given."""
    message = (
        f"the prompt has whole runs of placeholders for {there} pictures or tiles of pictures, but {tiles} are given: "
        "make both with the model's own processor"
    )
    if 0 < there < tiles and tiles % there == 0:
        message += ", and with an older transformers, which mixes pictures up for several beams or answers, ask for one"
    return message


def videos(pictures: Sequence[Run], frames: Sequence[int] | None, wording: Wording) -> list[list[Run]]:
    """The pictures of each video, in order.

    Parameters
    ----------
    frames: of each video, or one number for all videos; None where nobody has told.

    Raises
    ------
    InputError: videos of so many frames can be found in no way, or in several.
    """
    found = _series(pictures, wording)
    lengths = [len(part) for part in found]
    if frames is None:
        return [part for part in found if len(part) > 1]
    singles = sum(lengths)
    if singles < min(frames):
        # A call without a video, while times were given once for all calls.
        return []
    if (counts := _only_way(lengths, frames)) is None and len(frames) == 1:
        counts = _equal_videos(lengths, frames[0])
    if counts is not None:
        return [video for part, sizes in zip(found, counts, strict=True) for video in _cut(part, sizes)]
    if max(lengths) == 1 and singles == sum(frames):
        # No text that tells of frames, but the numbers leave no choice.
        dealt = _cut([picture for part in found for picture in part], frames)
        if all(video[0].row == video[-1].row for video in dealt):
            return dealt
    raise InputError(
        f"times are given for videos of {', '.join(map(str, frames))} frames, but the prompt has series of "
        f"{', '.join(map(str, lengths))} pictures: give times for each video, and frames the processor's own text"
    )


def _cut(part: Sequence[Run], sizes: Sequence[int]) -> list[list[Run]]:
    """The first pictures by video."""
    result, start = [], 0
    for size in sizes:
        result.append(list(part[start : start + size]))
        start += size
    return result


def _series(pictures: Sequence[Run], wording: Wording) -> list[list[Run]]:
    """Pictures of one tile, those that may be frames of one video together."""
    result: list[list[Run]] = []
    before: Run | None = None
    for picture in pictures:
        if picture.tiles == 1:
            if before is not None and before.tiles == 1 and _follows(result[-1], picture, wording):
                result[-1].append(picture)
            else:
                result.append([picture])
        before = picture
    return result


def _follows(series: Sequence[Run], picture: Run, wording: Wording) -> bool:
    """Whether a picture may be the next frame of the video of which `series` has the first ones."""
    last = series[-1]
    if last.row != picture.row or not wording.shortest <= len(picture.lead) <= wording.longest:
        return False
    if not _alike(last.lead, picture.lead, wording):
        return False
    if not wording.numbered or len(series) == 1:
        return True
    # Counting from 1 again is another video: the texts agree in the number, and in the word before it.
    behind = _common_end(series[0].lead, series[1].lead)
    return _common_end(series[0].lead, picture.lead) < behind + 2


def _alike(one: Sequence[int], other: Sequence[int], wording: Wording) -> bool:
    """Whether two texts end in the same way but for a number; frames that are not numbered may have the same time."""
    behind = _common_end(one, other)
    if not wording.numbered and behind >= wording.shortest - 2:
        return True
    if not wording.behind <= behind < min(len(one), len(other)):
        return False
    words = [(one[: len(one) - behind - i], other[: len(other) - behind - j]) for i, j in _LENGTHS]
    return any(_common_end(a, b) >= wording.before for a, b in words)


def _common_end(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids at the end are the same."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _equal_videos(lengths: Sequence[int], frames: int) -> list[list[int]] | None:
    """Videos of each series, if all have so many frames; None where single frames could as well be images."""
    if frames == 1 and len(lengths) > 1:
        return None
    counts = [length // frames if length % frames == 0 else 0 for length in lengths]
    return [[frames] * count for count in counts] if any(counts) else None


def _only_way(lengths: Sequence[int], frames: Sequence[int]) -> list[list[int]] | None:
    """Frames of the videos that each series is made of, images being none; None unless there is just one way.

    Videos keep their order, and a series is either made of videos as a whole or has none.

    >>> _only_way([1, 8], [8])
    [[], [8]]
    >>> _only_way([8, 8], [8]) is None
    True
    """
    sums = [0]
    for count in frames:
        sums.append(sums[-1] + count)

    def choices(part: int, video: int) -> list[int]:
        """Up to which video the series may reach that begins with `video`."""
        ends = [end for end in range(video + 1, len(sums)) if sums[end] - sums[video] == lengths[part]]
        return [video, *ends]

    @cache
    def ways(part: int, video: int) -> int:
        if part == len(lengths):
            return int(video == len(frames))
        return sum(ways(part + 1, end) for end in choices(part, video))

    if ways(0, 0) != 1:
        return None
    ends = [0]
    for part in range(len(lengths)):
        ends.append(next(end for end in choices(part, ends[-1]) if ways(part + 1, end)))
    return [list(frames[start:end]) for start, end in pairwise(ends)]
