"""Checks of arguments that run before a model is loaded or a frame is decoded."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tangovlm.budget import validate_retention
from tangovlm.errors import InputError, VideoError
from tangovlm.report import RETENTIONS, check_writable

if TYPE_CHECKING:
    from tangovlm.video import FrameSampling

    from .options import Seek

PAGE_SUFFIXES = {".html", ".htm"}


def check_at_least_one(option: str, value: int | None) -> None:
    """Raise `InputError` for a count below one."""
    if value is not None and value < 1:
        raise InputError(f"{option} is {value}: it must be at least 1")


def check_video(video: str, sampling: FrameSampling | None = None) -> None:
    """Check that a video can be opened, and has the stream and the part to take.

    Raises
    ------
    VideoError: not a local video file, or without these. Damage inside the file is found later, by decoding.
    """
    from tangovlm.video import FrameSampling
    from tangovlm.video.decode import check

    check(video, sampling or FrameSampling())


def sampling_of(
    frames: int | None,
    fps: float | None,
    max_frames: int | None,
    start: str | None,
    end: str | None,
    stream: int | None,
    seek: Seek | None,
) -> FrameSampling:
    """Which frames to take, from the options of a command.

    Raises
    ------
    TangoError: an invalid value, or options that do not go together.
    """
    check_at_least_one("--frames", frames)
    check_at_least_one("--max-frames", max_frames)
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise InputError(f"--fps is {fps:g}: it must be a finite number above 0")
    # These import torch, which takes seconds.
    from tangovlm.video import FrameSampling
    from tangovlm.video.input.times import parse_seconds

    start_s = None if start is None else parse_seconds(start, "--start")
    end_s = None if end is None else parse_seconds(end, "--end")
    return FrameSampling(frames, fps, max_frames, start_s, end_s, stream, None if seek is None else seek.value)


def check_dry_run(questions: Sequence[str], unanswerable: Mapping[str, bool]) -> None:
    """Raise `InputError` for a dry run without questions, or with options that need an answer.

    Parameters
    ----------
    unanswerable: names of such options, and whether they are given.
    """
    if not questions:
        raise InputError("--dry-run reads no questions from standard input: give them on the command line")
    for option, given in unanswerable.items():
        if given:
            raise InputError(
                f"--dry-run and {option} do not go together: nothing is answered, so leave one of them out"
            )


def check_report(report: Path, video: str) -> None:
    """Raise `InputError` if the report is not named as a page, cannot be written, or would overwrite the video."""
    check_writable(report, "--report")
    if report.exists() and os.path.exists(video) and report.samefile(video):
        raise InputError(f"--report {report} is the video itself: give another name")
    if report.suffix.lower() not in PAGE_SUFFIXES:
        raise InputError(f"--report {report} is written as HTML: give a name that ends in .html")


def check_report_retentions(text: str | None, report: Path | None) -> tuple[float, ...]:
    """The retentions of `--report-retentions`; those of `RETENTIONS` if it is not given, none for "none".

    Raises
    ------
    InputError: no numbers, a retention outside (0, 1], or no report.
    """
    if text is None:
        return RETENTIONS
    if report is None:
        raise InputError("--report-retentions goes with --report: name the file to write")
    if text.strip() == "none":
        return ()
    try:
        retentions = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(
            f"--report-retentions {text!r} is no list of numbers: give retentions such as 0.05,0.2, or none"
        ) from error
    return tuple(sorted({validate_retention(each) for each in retentions}))


def check_device(name: str | None) -> str | None:
    """Allocate a tensor on a device and return its name; None for none.

    Raises
    ------
    InputError: the device cannot be used on this machine.
    """
    if name is not None:
        import torch

        try:
            torch.zeros(1, device=name).item()
        except (RuntimeError, AssertionError, ImportError) as error:
            reason = _why_not(name, error)
            raise InputError(f"--device {name} cannot be used here ({reason}): try cpu, or leave it out") from error
    return name


def _why_not(device: str, error: Exception) -> str:
    """Why a device cannot be used, in a few words."""
    import torch

    kind, _, index = device.partition(":")
    if kind == "cuda":
        if torch.version.cuda is None and torch.version.hip is None:
            return "this build of PyTorch is for CPUs only"
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            return "PyTorch finds no GPU"
        if index.isdecimal() and int(index) >= count:
            return f"PyTorch finds {count} GPU{'s' * (count > 1)}, counted from 0"
    return str(error).strip().partition("\n")[0].rstrip(".")


def check_model(model: str | None) -> None:
    """Raise `InputError` for the path of a checkpoint that is missing; any other name may be that of a hub id."""
    if model is not None and model.startswith((".", "/", "~")) and not os.path.exists(os.path.expanduser(model)):
        raise InputError(f"--model {model}: there is no such folder: give that of a checkpoint, or a hub id")


def check_found(video: str) -> None:
    """Raise `VideoError` for a missing file, before the packages are imported that open it."""
    # Others are URLs, standard input, or nothing, which are refused with a reason of their own.
    if video in ("", "-") or ":" in video or "\0" in video:
        return
    try:
        os.lstat(video)
    except OSError as error:
        raise VideoError(f"{video}: cannot be read ({error.strerror}); check the path") from error
