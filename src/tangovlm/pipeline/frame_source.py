"""A video as pixels on the model's device: prepared before the model runs, or on the way to its vision tower."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

from torch import Tensor

from ..models.common.family import Family
from ..video import Frames
from ..video.ahead import Ahead

Progress = Callable[[str, int, int], None]

# So many frames keep a GPU busy for about as long as their successors take to decode.
FRAMES_AHEAD = 8


@dataclass(eq=False)
class Source:
    """What one call of the model sees of a video.

    Parameters
    ----------
    pixels: see `Family.pixels`; those of a clip that is still being decoded are filled in when the tower asks.
    timestamps_s: ``(T,)`` float64.
    duration_s: of the whole video; None while it is not known.
    frames: gives the decoded frames, once all are there.
    decode_ms: gives the time that went by waiting for frames.
    prepare_ms: gives what that and the preparation add to the time of the call's encoding.
    """

    pixels: Tensor
    timestamps_s: Tensor
    duration_s: float | None
    frames: Callable[[], Frames]
    decode_ms: Callable[[], float]
    prepare_ms: Callable[[], float]


def whole(
    clip: Frames, decode_ms: float, family: Family, config: Mapping[str, Any], *, resized: bool = False
) -> Source:
    """The pixels of frames that are all there.

    Parameters
    ----------
    resized: see `Family.pixels`.
    """
    start = perf_counter()
    pixels = family.pixels(clip.pixels.to(family.device), config, resized=resized)
    prepare_ms = 1000 * (perf_counter() - start)
    return Source(pixels, clip.timestamps_s, clip.duration_s, lambda: clip, lambda: decode_ms, lambda: prepare_ms)


@contextmanager
def ahead(path: Any, frames: int, family: Family, config: Mapping[str, Any], report: Progress) -> Iterator[Source]:
    """Decode in a thread; while one chunk of frames is encoded, the next one is being decoded.

    For one call of the model within the context.

    Parameters
    ----------
    path, frames: see `tangovlm.video.decode`.
    report: told of the stages "decode" and "encode".

    Raises
    ------
    VideoError: see `tangovlm.video.decode`; within the context too.
    FramesChangedError: within the context: the file is damaged, and must be decoded whole.
    """
    pinned = family.device.type == "cuda"
    with ExitStack() as stack:
        clip = stack.enter_context(Ahead(path, frames, fit=partial(family.frame_size, config), pin_memory=pinned))
        times, count = clip.timestamps_s, len(clip.timestamps_s)
        before_ms = clip.waited_ms
        report("decode", 0, count)

        def take(start: int, stop: int) -> Tensor:
            taken = clip.take(start, stop)
            report("decode", stop, count)
            if stop == count:
                report("encode", 0, 1)
            return taken

        pixels = stack.enter_context(family.streamed(count, config, take))
        # What is waited for within the encoding is not its own time.
        yield Source(pixels, times, None, clip.result, lambda: clip.waited_ms, lambda: before_ms - clip.waited_ms)
