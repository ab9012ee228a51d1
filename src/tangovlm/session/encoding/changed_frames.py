"""Which frames of a call the vision encoder runs on, if only those that changed are encoded."""

from typing import Any

from torch import Tensor

from ...models.common.family import Family
from ...models.common.layout import Clip
from ...tower.changed import Changed


def changed_frames(
    changed: Changed | None, family: Family, clips: list[Clip], *args: Any, **kwargs: Any
) -> tuple[list[Clip], Tensor | None]:
    """The clips with the number of their encoded frames, and `Changed.rows`; None if all frames are encoded.

    Parameters
    ----------
    changed: None to encode all frames.
    clips: videos of a call of the encoder.
    args, kwargs: of this call.

    Raises
    ------
    InputError: the family cannot encode single frames of a video.
    """
    if changed is None or not clips:
        return clips, None
    rows = changed.rows(family.encoding.colors(*args, **kwargs), [clip.frames for clip in clips])
    if int(rows[-1]) + 1 == len(rows):
        return clips, None
    counts = [int(rows[stop - 1] - rows[start]) + 1 for start, stop in (clip.frames for clip in clips)]
    return [clip._replace(encoded=count) for clip, count in zip(clips, counts, strict=True)], rows
