"""Which pictures of a prompt are frames of a video, for models with one placeholder for frames and images.

Such a model receives all pictures of a call in one sequence. A picture is one *tile*, or several if the processor
divides large images; a frame is one tile. In the prompt a picture is a run of placeholders, and stock processors write
text before every frame of a video ("Frame1:", "Frame from 00:01:"). So the frames of a video are pictures of one tile
with little text between them, which differs in a number only: a *series*.

If the caller gives times, they determine how many frames each video has, and must fit the series. Otherwise every
series of at least two pictures is taken for a video, which the report says, and a single picture for an image.
"""

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional

from ...errors import InputError

# Tokens of the longest number or time that distinguishes frames: "100:01" in digits.
_NUMBER = 6
_LENGTHS = [(i, j) for i in range(_NUMBER + 1) for j in range(_NUMBER + 1) if i or j]


class FrameText(NamedTuple):
    """Text that the stock processor writes between two frames of a video, in tokens.

    Parameters
    ----------
    shortest, longest: its length; less text is between images, more between videos.
    prefix, suffix: minimum number of equal tokens before and after the number.
    numbered: whether frames are counted, from 1, so that frames with equal texts belong to different videos.
    """

    shortest: int
    longest: int
    prefix: int
    suffix: int
    numbered: bool


class Picture(NamedTuple):
    """The run of placeholders of one picture.

    Parameters
    ----------
    entry: of the batch.
    start: index of the first placeholder in the prompt.
    length: number of placeholders.
    tiles: of the picture.
    text: token ids between the picture before and this one.
    """

    entry: int
    start: int
    length: int
    tiles: int
    text: tuple[int, ...]


def find_pictures(input_ids: Tensor, placeholder: int, tokens: int) -> list[Picture]:
    """All pictures of prompts ``(B, Q)``, in order.

    Parameters
    ----------
    input_ids: ``(B, Q)`` int64.
    placeholder: id of the placeholder.
    tokens: number of tokens of a tile.
    """
    ids = input_ids.cpu()
    edges = functional.pad((ids == placeholder).int(), (1, 1)).diff(dim=1)
    starts, stops = ((edges == sign).nonzero().tolist() for sign in (1, -1))
    pictures: list[Picture] = []
    last_entry, end = -1, 0
    for (entry, start), (_, stop) in zip(starts, stops, strict=True):
        tiles, rest = divmod(stop - start, tokens)
        if rest:
            # Placeholders that a model generated are no picture.
            continue
        end = end if entry == last_entry else 0
        pictures.append(Picture(entry, start, stop - start, tiles, tuple(ids[entry, end:start].tolist())))
        last_entry, end = entry, stop
    return pictures


def last_tiles(pictures: Sequence[Picture], tiles: int) -> list[Picture]:
    """The last pictures of a prompt with this number of tiles; in a conversation the first ones were encoded before.

    Raises
    ------
    InputError: no number of pictures has exactly this number of tiles.
    """
    first, missing = len(pictures), tiles
    while missing > 0 and first > 0:
        first -= 1
        missing -= pictures[first].tiles
    if missing:
        raise InputError(mismatch_message(sum(picture.tiles for picture in pictures), tiles))
    return list(pictures[first:])


def encoded_pictures(prompts: Sequence[Sequence[Picture]], tiles: Sequence[int]) -> list[list[Picture]]:
    """The pictures of each prompt that a call encodes: all, or the last ones in a conversation.

    Stock code reads them in the order of the prompts, whatever the entries of the pixels are: stock processors make one
    for each prompt, for each video, or for everything together.

    Parameters
    ----------
    prompts: all pictures of each prompt.
    tiles: number of tiles in each entry of the pixels.

    Raises
    ------
    InputError: other pictures are encoded.
    """
    expected, given = sum(picture.tiles for pictures in prompts for picture in pictures), sum(tiles)
    if expected == given:
        return [list(pictures) for pictures in prompts]
    if len(prompts) == 1:
        return [last_tiles(prompts[0], given)]
    if len(tiles) != len(prompts):
        # It is unknown of which prompt pictures were encoded before.
        raise InputError(mismatch_message(expected, given))
    return [last_tiles(pictures, count) for pictures, count in zip(prompts, tiles, strict=True)]


def mismatch_message(expected: int, tiles: int) -> str:
    """The message if a prompt has placeholders for another number of tiles than are given."""
    message = (
        f"the prompt has whole runs of placeholders for {expected} pictures or tiles of pictures, but {tiles} are "
        "given: make both with the model's own processor"
    )
    if 0 < expected < tiles and tiles % expected == 0:
        message += ", and with an older transformers, which mixes pictures up for several beams or answers, ask for one"
    return message


def group_videos(
    pictures: Sequence[Picture], frames: Sequence[int] | None, frame_text: FrameText
) -> list[list[Picture]]:
    """The pictures of each video, in order.

    Parameters
    ----------
    frames: number of frames of each video, or one number for all videos; None if the caller gave no times.

    Raises
    ------
    InputError: there is no way to find videos with these numbers of frames, or more than one.
    """
    series = _series(pictures, frame_text)
    lengths = [len(part) for part in series]
    if frames is None:
        return [part for part in series if len(part) > 1]
    singles = sum(lengths)
    if singles < min(frames):
        # A call without a video; the times were given once for all calls.
        return []
    if (counts := _only_way(lengths, frames)) is None and len(frames) == 1:
        counts = _equal_videos(lengths, frames[0])
    if counts is not None:
        return [video for part, sizes in zip(series, counts, strict=True) for video in _cut(part, sizes)]
    if max(lengths) == 1 and singles == sum(frames):
        # The text does not identify frames, but only one division is possible.
        videos = _cut([picture for part in series for picture in part], frames)
        if all(video[0].entry == video[-1].entry for video in videos):
            return videos
    raise InputError(
        f"times are given for videos of {', '.join(map(str, frames))} frames, but the prompt has series of "
        f"{', '.join(map(str, lengths))} pictures: give times for each video, and frames the processor's own text"
    )


def _cut(part: Sequence[Picture], sizes: Sequence[int]) -> list[list[Picture]]:
    """The first pictures, divided into videos of these sizes."""
    result, start = [], 0
    for size in sizes:
        result.append(list(part[start : start + size]))
        start += size
    return result


def _series(pictures: Sequence[Picture], frame_text: FrameText) -> list[list[Picture]]:
    """Pictures of one tile, grouped into those that may be frames of one video."""
    result: list[list[Picture]] = []
    before: Picture | None = None
    for picture in pictures:
        if picture.tiles == 1:
            if before is not None and before.tiles == 1 and _follows(result[-1], picture, frame_text):
                result[-1].append(picture)
            else:
                result.append([picture])
        before = picture
    return result


def _follows(series: Sequence[Picture], picture: Picture, frame_text: FrameText) -> bool:
    """Whether a picture may be the next frame of the video whose first frames are `series`."""
    last = series[-1]
    if last.entry != picture.entry or not frame_text.shortest <= len(picture.text) <= frame_text.longest:
        return False
    if not _alike(last.text, picture.text, frame_text):
        return False
    if not frame_text.numbered or len(series) == 1:
        return True
    # A video that is counted from 1 again is another one: texts are equal in the number, and in the word before it.
    suffix = _common_end(series[0].text, series[1].text)
    return _common_end(series[0].text, picture.text) < suffix + 2


def _alike(one: Sequence[int], other: Sequence[int], frame_text: FrameText) -> bool:
    """Whether two texts end equally except for a number; frames that are not numbered may have the same time."""
    suffix = _common_end(one, other)
    if not frame_text.numbered and suffix >= frame_text.shortest - 2:
        return True
    if not frame_text.suffix <= suffix < min(len(one), len(other)):
        return False
    words = [(one[: len(one) - suffix - i], other[: len(other) - suffix - j]) for i, j in _LENGTHS]
    return any(_common_end(a, b) >= frame_text.prefix for a, b in words)


def _common_end(one: Sequence[int], other: Sequence[int]) -> int:
    """Number of equal ids at the end."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _equal_videos(lengths: Sequence[int], frames: int) -> list[list[int]] | None:
    """Videos of each series, if all have this number of frames; None if single frames might be images."""
    if frames == 1 and len(lengths) > 1:
        return None
    counts = [length // frames if length % frames == 0 else 0 for length in lengths]
    return [[frames] * count for count in counts] if any(counts) else None


def _only_way(lengths: Sequence[int], frames: Sequence[int]) -> list[list[int]] | None:
    """Frames of the videos in each series (none in a series of images); None unless there is exactly one way.

    Videos keep their order, and a series is either completely divided into videos or has none.

    >>> _only_way([1, 8], [8])
    [[], [8]]
    >>> _only_way([8, 8], [8]) is None
    True
    """
    sums = [0]
    for count in frames:
        sums.append(sums[-1] + count)

    def choices(part: int, video: int) -> list[int]:
        """The videos up to which the series may extend that begins with `video`."""
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
