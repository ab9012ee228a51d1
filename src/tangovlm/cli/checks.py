"""What can be refused at once, before a model is loaded or a frame decoded."""

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
    """Open a video and close it again.

    Raises
    ------
    VideoError: not a local video file; damage further in is found when it is decoded.
    """
    container, _ = open_video(local_file(video))
    container.close()


def check_report(report: Path, video: str) -> None:
    """Raise `InputError` if a page could not be written at `report`, or would take the place of the video."""
    check_writable(report, "--report")
    if report.exists() and report.samefile(video):
        raise InputError(f"--report {report} is the video itself: give another name")


def device(name: str | None) -> str | None:
    """The device, once tried.

    Raises
    ------
    InputError: no such device here.
    """
    if name is not None:
        try:
            torch.zeros(1, device=name).item()
        except (RuntimeError, AssertionError, ImportError) as error:
            raise InputError(f"--device {name} cannot be used here: try cpu, or leave it out") from error
    return name
