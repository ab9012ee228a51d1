"""Checks of arguments that run before a model is loaded or a frame is decoded."""

from pathlib import Path

import torch

from tangovlm.errors import InputError
from tangovlm.report import check_writable
from tangovlm.video.source import local_file, open_video


def check_at_least_one(option: str, value: int | None) -> None:
    """Raise `InputError` for a count below one."""
    if value is not None and value < 1:
        raise InputError(f"{option} is {value}: it must be at least 1")


def check_video(video: str) -> None:
    """Check that a video can be opened.

    Raises
    ------
    VideoError: not a local video file. Damage inside the file is found later, by decoding.
    """
    container, _ = open_video(local_file(video))
    container.close()


def check_report(report: Path, video: str) -> None:
    """Raise `InputError` if the report cannot be written, or would overwrite the video."""
    check_writable(report, "--report")
    if report.exists() and report.samefile(video):
        raise InputError(f"--report {report} is the video itself: give another name")


def check_device(name: str | None) -> str | None:
    """Allocate a tensor on a device and return its name; None for none.

    Raises
    ------
    InputError: the device cannot be used on this machine.
    """
    if name is not None:
        try:
            torch.zeros(1, device=name).item()
        except (RuntimeError, AssertionError, ImportError) as error:
            raise InputError(f"--device {name} cannot be used here: try cpu, or leave it out") from error
    return name
