"""What a clip may be, and the checks of a file that somebody uploads."""

from dataclasses import dataclass, fields
from pathlib import Path

from tangovlm.errors import InputError, VideoError

MAX_QUESTION = 2000
"""Characters of a question."""


@dataclass(frozen=True)
class Limits:
    """What users of the page may ask for.

    Parameters
    ----------
    max_megabytes: size of an uploaded file, in 10^6 bytes.
    max_minutes: duration of a clip.
    max_megapixels: width times height of its frames, in 10^6 pixels; the default accepts 4K.
    max_frames: frames that are taken from a clip.
    max_new_tokens: length of an answer.

    Raises
    ------
    InputError: a value that is not above 0.
    """

    max_megabytes: float = 200
    max_minutes: float = 10
    max_megapixels: float = 9
    max_frames: int = 64
    max_new_tokens: int = 256

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 < value < float("inf"):
                raise InputError(f"{option(field.name)} is {value:g}: give a number above 0")

    def check_size(self, size: int, name: str) -> None:
        """Raise `VideoError` for a file of too many bytes."""
        if size > self.max_megabytes * 10**6:
            raise VideoError(f"{name}: {size / 10**6:.1f} MB, and up to {self.max_megabytes:g} MB are accepted")

    def check_clip(self, path: Path, name: str) -> float:
        """Check the size, the container, the resolution and the duration of a file, in this order.

        Parameters
        ----------
        name: of the file, as the user knows it, for errors.

        Returns
        -------
        Its duration in seconds.

        Raises
        ------
        VideoError: it exceeds a limit, or it is not a readable video.
        """
        from tangovlm.video import duration_s
        from tangovlm.video.source import local_file, open_video

        try:
            file = local_file(path)
            self.check_size(file.stat().st_size, name)
            container, stream = open_video(file)
            width, height = stream.width, stream.height
            container.close()
            if width * height > self.max_megapixels * 10**6:
                raise VideoError(
                    f"{name}: frames of {width} x {height} pixels, and up to {self.max_megapixels:g} megapixels are "
                    "accepted: scale the video down"
                )
            seconds = duration_s(file)
        except VideoError as error:
            raise renamed(error, path, name) from error
        if seconds > 60 * self.max_minutes:
            raise VideoError(
                f"{name}: {clock(seconds)} long, and up to {clock(60 * self.max_minutes)} are accepted: cut the video"
            )
        return seconds

    def check_frames(self, frames: object) -> int:
        """The number of frames; raises `InputError` unless it is a whole number within the limit."""
        return _whole("frames", frames, self.max_frames)

    def check_new_tokens(self, count: object) -> int:
        """The length of an answer in tokens; raises `InputError` unless it is a whole number within the limit."""
        return _whole("longest answer", count, self.max_new_tokens)


def check_question(question: str) -> str:
    """The question without surrounding spaces; raises `InputError` if it is empty or too long."""
    text = question.strip()
    if not text:
        raise InputError("no question: type one, or choose a suggestion")
    if len(text) > MAX_QUESTION:
        raise InputError(f"the question has {len(text)} characters: up to {MAX_QUESTION} are accepted")
    return text


def option(field: str) -> str:
    """The option of the command line for a field of `Limits`."""
    return f"--{field.replace('_', '-')}"


def renamed(error: Exception, path: Path, name: str) -> VideoError:
    """An error whose message has the user's name of a file in place of its path."""
    return VideoError(str(error).replace(str(path.absolute()), name).replace(str(path), name))


def clock(seconds: float) -> str:
    """Seconds as `m:ss`, and as `h:mm:ss` from an hour on.

    >>> clock(63), clock(3600)
    ('1:03', '1:00:00')
    """
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def _whole(name: str, value: object, most: int) -> int:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or value != value or value != int(value):
        raise InputError(f"{name}: {value!r} is not a whole number")
    if not 1 <= value <= most:
        raise InputError(f"{name}: {int(value)} is not between 1 and {most}")
    return int(value)
