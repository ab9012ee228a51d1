"""Limits of clips and questions, each refused with one line that names the file as its user knows it."""

from pathlib import Path

import pytest

from tangovlm.app.limits import MAX_QUESTION, Limits, check_question, clock, option
from tangovlm.errors import InputError, VideoError
from tests.support.checkpoints import write_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "4b1d.mp4")


def refusal(path: Path, **changes: float) -> str:
    with pytest.raises(VideoError) as caught:
        Limits(**changes).check_clip(path, "holiday.mp4")  # type: ignore[arg-type]
    message = str(caught.value)
    assert message.startswith("holiday.mp4: ")
    assert "\n" not in message
    assert path.name not in message
    return message


def test_a_clip_within_the_limits(clip: Path) -> None:
    assert Limits().check_clip(clip, "holiday.mp4") > 0


def test_each_limit_of_a_clip(clip: Path) -> None:
    seconds = Limits().check_clip(clip, "holiday.mp4")
    megabytes = clip.stat().st_size / 10**6
    assert "MB are accepted" in refusal(clip, max_megabytes=megabytes * 0.99)
    assert "megapixels are accepted" in refusal(clip, max_megapixels=0.0001)
    assert "are accepted: cut the video" in refusal(clip, max_minutes=seconds / 60 * 0.9)
    assert Limits(max_megabytes=megabytes * 1.01, max_minutes=seconds / 60 * 1.1).check_clip(clip, "a.mp4") == seconds


def test_files_that_are_no_clips(tmp_path: Path, clip: Path) -> None:
    text = tmp_path / "8c2e.mp4"
    text.write_text("no video")
    assert "not a video in a supported container" in refusal(text)
    text.write_bytes(b"")
    assert "the file is empty" in refusal(text)
    text.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    assert "truncated" in refusal(text)
    text.write_text("#EXTM3U\nhttp://example.org/clip.mp4\n")
    assert "a playlist" in refusal(text)


@pytest.mark.parametrize("field", ["max_megabytes", "max_minutes", "max_megapixels", "max_frames", "max_new_tokens"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_limits_are_above_zero(field: str, value: float) -> None:
    with pytest.raises(InputError, match=f"^{option(field)} is "):
        Limits(**{field: value})


@pytest.mark.parametrize("value", [0, 65, 2.5, None, "4", True, float("nan")])
def test_numbers_of_frames(value: object) -> None:
    with pytest.raises(InputError, match="^frames: "):
        Limits(max_frames=64).check_frames(value)
    assert Limits(max_frames=64).check_frames(64.0) == 64


def test_questions() -> None:
    assert check_question("  Where is it? ") == "Where is it?"
    for empty in ("", " \n"):
        with pytest.raises(InputError, match="^no question"):
            check_question(empty)
    with pytest.raises(InputError, match=f"up to {MAX_QUESTION} are accepted"):
        check_question("w" * (MAX_QUESTION + 1))


def test_durations() -> None:
    assert [clock(seconds) for seconds in (0, 59.6, 61, 3599, 3661)] == ["0:00", "1:00", "1:01", "59:59", "1:01:01"]
