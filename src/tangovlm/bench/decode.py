"""`tangovlm bench decode`: frames of files by this library and by others that are installed.

Every repetition runs all readers on a file, one after another, so that they meet the same load of the machine; the
first is a warm-up. All take the same frames, in RGB at the size of the clip; the others get their numbers, which this
library finds out itself. Each reader has its own default number of threads.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tangovlm.errors import InputError
from tangovlm.report.provenance import machine
from tangovlm.video import decode
from tangovlm.video.reader import Reader
from tangovlm.video.sample import uniform
from tangovlm.video.source import local_file

from .tables import Column, number, text
from .timing import wall_and_cpu_s

KEYS = ("clip", "frames", "reader", "machine", "threads")
"""The entries that identify a row: one with the same entries replaces another."""
COLUMNS = (
    Column("clip", text("clip")),
    Column("reader", text("reader")),
    Column("frames", text("frames")),
    Column("CPU ms", number("cpu_ms", 0)),
    Column("× exact", number("cpu_ratio", 2)),
    Column("ms", number("ms", 0)),
    Column("of exact", number("ratio", 2)),
    Column("furthest s", number("furthest_s", 2)),
    Column("largest difference", number("difference", 1)),
)
EXACT = "tangovlm"

Pictures = npt.NDArray[np.uint8]
Read = Callable[[Path, Sequence[int]], Pictures]


@dataclass(frozen=True)
class DecodeRow:
    """One reader on one file; times are medians.

    Parameters
    ----------
    clip, format, codec, height, width, clip_frames, duration_s, keyframes: of the file and its video.
    reader: a name of `READERS` or of `OTHERS`. frames: number of frames that it takes.
    ms, cpu_ms: from opening the file to the last frame; CPU time of all threads.
    ratio, cpu_ratio: the same relative to exact seeking by this library in the same repetition.
    furthest_s: the largest distance of a frame from the wanted time; None for other libraries, which do not say it.
    difference: the largest mean absolute difference of a frame from the exact one, of 255 levels. Conversions to RGB
        differ by a few levels.
    device, machine, threads, versions: see `tangovlm.report.provenance.machine`; `threads` are the available cores.
    warm_up, repeats: number of runs that are not timed, and of runs that are.
    """

    clip: str
    format: str
    codec: str
    height: int
    width: int
    clip_frames: int
    duration_s: float
    keyframes: int
    reader: str
    frames: int
    ms: float
    cpu_ms: float
    ratio: float
    cpu_ratio: float
    furthest_s: float | None
    difference: float
    device: str
    machine: Mapping[str, Any]
    threads: int
    versions: Mapping[str, str]
    warm_up: int
    repeats: int


def run(
    *, files: Sequence[Path], frames: int = 32, repeats: int = 5, progress: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """Decode each file with every reader, and yield a row for each.

    Parameters
    ----------
    repeats: number of timed repetitions, after the warm-up.
    progress: called with a line at the start of each file, and for each reader that is not installed or fails.

    Raises
    ------
    InputError: no file. VideoError: see `tangovlm.video.decode`.
    """
    if not files:
        raise InputError("bench decode needs at least one file")
    paths = [local_file(file) for file in files]
    readers: dict[str, Read] = {name: partial(_ours, options) for name, options in READERS.items()}
    for name, (package, read) in OTHERS.items():
        if find_spec(package) is None:
            progress(f"{name} is not installed: it is left out")
        else:
            readers[name] = read
    for file in paths:
        progress(f"{file.name}: {1 + repeats} times {frames} frames with {', '.join(readers)}")
        yield from map(asdict, _rows(file, frames, repeats, readers, progress))


def _rows(
    file: Path, frames: int, repeats: int, readers: Mapping[str, Read], progress: Callable[[str], None]
) -> Iterator[DecodeRow]:
    with Reader(file) as reader:
        timeline = reader.timeline()
        places = uniform(timeline.pts, frames)
        stream = reader.stream
        about: dict[str, Any] = {
            "clip": file.name,
            "format": reader.container.format.name,
            "codec": stream.codec_context.name,
            "height": stream.height,
            "width": stream.width,
            "clip_frames": len(timeline.pts),
            "keyframes": len(timeline.keyframes),
        }
    exact = decode(file, frames)
    wanted = exact.pixels.permute(0, 2, 3, 1).numpy()
    differences, working = {}, dict(readers)
    for name, read in readers.items():
        try:
            differences[name] = _difference(read(file, places), wanted)
        except Exception as error:
            if name in READERS:
                raise
            # Other libraries have errors of their own.
            progress(f"{name} cannot read {file.name} ({type(error).__name__}): it is left out")
            del working[name]
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in working}
    host = torch.device("cpu")
    for _ in range(repeats):
        for name, read in working.items():
            _, wall_s, cpu_s = wall_and_cpu_s(partial(read, file, places), host)
            times[name].append((1e3 * wall_s, 1e3 * cpu_s))
    here = machine(host) | {"threads": _cores()}
    versions = here.pop("versions") | _versions()
    for name, runs in times.items():
        pairs = list(zip(runs, times[EXACT], strict=True))
        yield DecodeRow(
            **about,
            duration_s=exact.duration_s,
            reader=name,
            frames=len(places),
            ms=median(ms for ms, _ in runs),
            cpu_ms=median(cpu for _, cpu in runs),
            ratio=median(ms / other for (ms, _), (other, _) in pairs),
            cpu_ratio=median(cpu / other for (_, cpu), (_, other) in pairs),
            furthest_s=_furthest_s(file, frames, name, exact.timestamps_s),
            difference=differences[name],
            versions=versions,
            warm_up=1,
            repeats=repeats,
            **here,
        )


def _difference(pictures: Pictures, wanted: Pictures) -> float:
    """The largest mean difference of two frames; frames that are missing count as different throughout."""
    if pictures.shape != wanted.shape:
        return 255.0
    means = [np.abs(a.astype(np.int16) - b).mean() for a, b in zip(pictures, wanted, strict=True)]
    return float(max(means))


def _furthest_s(file: Path, frames: int, name: str, wanted_s: torch.Tensor) -> float | None:
    if name not in READERS:
        return None
    taken_s = decode(file, frames, **READERS[name]).timestamps_s
    return float((taken_s - wanted_s).abs().max()) if len(taken_s) == len(wanted_s) else None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _versions() -> dict[str, str]:
    found = {}
    for package in ("av", "decord", "opencv-python", "opencv-python-headless", "torchcodec"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _ours(options: Mapping[str, Any], file: Path, places: Sequence[int]) -> Pictures:
    return decode(file, len(places), **options).pixels.permute(0, 2, 3, 1).numpy()


def _decord(file: Path, places: Sequence[int]) -> Pictures:
    import decord

    pictures: Pictures = decord.VideoReader(str(file)).get_batch(list(places)).asnumpy()
    return pictures


def _opencv(file: Path, places: Sequence[int]) -> Pictures:
    import cv2

    capture = cv2.VideoCapture(str(file))
    pictures = []
    for place in places:
        capture.set(cv2.CAP_PROP_POS_FRAMES, place)
        found, picture = capture.read()
        if not found:
            raise ValueError(f"frame {place} was not read")
        pictures.append(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
    capture.release()
    return np.stack(pictures)


def _torchcodec(file: Path, places: Sequence[int]) -> Pictures:
    from torchcodec.decoders import VideoDecoder

    pictures: Pictures = VideoDecoder(str(file), dimension_order="NHWC").get_frames_at(list(places)).data.numpy()
    return pictures


READERS: dict[str, dict[str, Any]] = {
    EXACT: {},
    f"{EXACT}, 1 thread": {"threads": 1},
    f"{EXACT}, seek=auto": {"seek": "auto"},
    f"{EXACT}, seek=keyframe": {"seek": "keyframe"},
}
"""Ways of reading with this library: options of `tangovlm.video.decode`. All are compared with the first."""
OTHERS: dict[str, tuple[str, Read]] = {
    "decord": ("decord", _decord),
    "OpenCV": ("cv2", _opencv),
    "torchcodec": ("torchcodec", _torchcodec),
}
"""Other libraries: the package to import, and how it reads."""
