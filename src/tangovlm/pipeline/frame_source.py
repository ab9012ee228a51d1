"""The pixels of a video on the model's device: decoded before the model runs, or while its vision encoder runs."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

from torch import Tensor

from ..models.common.family import Family
from ..video import Frames, FrameSampling
from ..video.frames import since
from ..video.prefetch import FramePrefetcher

Progress = Callable[[str, int, int], None]

# Encoding so many frames on a GPU takes about as long as decoding the next ones.
FRAMES_AHEAD = 8


@dataclass(eq=False)
class Source:
    """The frames of a video for one call of the model.

    Parameters
    ----------
    pixels: see `Family.pixels`; while a clip is being decoded, they are filled in when the encoder reads them.
    timestamps_s: ``(T,)`` float64, since the beginning of the part that was taken.
    duration_s: of that part; None if unknown.
    frames: returns the decoded frames, after all are decoded.
    decode_ms: returns the time spent waiting for frames.
    prepare_ms: returns what to add to the measured encoding time: the preparation of the pixels, less the waiting.
    """

    pixels: Tensor
    timestamps_s: Tensor
    duration_s: float | None
    frames: Callable[[], Frames]
    decode_ms: Callable[[], float]
    prepare_ms: Callable[[], float]


def decoded_source(
    clip: Frames, decode_ms: float, family: Family, config: Mapping[str, Any], *, resized: bool = False
) -> Source:
    """The source of a clip that is fully decoded.

    Parameters
    ----------
    resized: see `Family.pixels`.
    """
    start = perf_counter()
    pixels = family.prompt.pixels(clip.pixels.to(family.device), config, resized=resized)
    prepare_ms = 1000 * (perf_counter() - start)
    return Source(
        pixels, clip.prompt_times_s, clip.prompt_duration_s, lambda: clip, lambda: decode_ms, lambda: prepare_ms
    )


@contextmanager
def streamed_source(
    path: Any, frames: FrameSampling, family: Family, config: Mapping[str, Any], report: Progress
) -> Iterator[Source]:
    """A source that decodes in a thread: while a chunk of frames is encoded, the next one is decoded.

    It can be used for one call of the model, within the context.

    Parameters
    ----------
    path, frames: see `tangovlm.video.decode`.
    report: called for the stages "decode" and "encode".

    Raises
    ------
    VideoError: see `tangovlm.video.decode`; within the context too.
    FramesChangedError: within the context: the file is damaged, and must be decoded before the model runs.
    """
    pinned = family.device.type == "cuda"
    with ExitStack() as stack:
        fit = partial(family.prompt.frame_size, config)
        clip = stack.enter_context(FramePrefetcher(path, frames, fit=fit, pin_memory=pinned))
        times = clip.timestamps_s if frames.start_s is None else since(clip.timestamps_s, frames.start_s)
        count = len(times)
        before_ms = clip.waited_ms
        report("decode", 0, count)

        def take(start: int, stop: int) -> Tensor:
            taken = clip.take(start, stop)
            report("decode", stop, count)
            if stop == count:
                report("encode", 0, 1)
            return taken

        pixels = stack.enter_context(family.prompt.streamed(count, config, take))
        # The encoding time includes waiting for frames.
        yield Source(pixels, times, None, clip.result, lambda: clip.waited_ms, lambda: before_ms - clip.waited_ms)
