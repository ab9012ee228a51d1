"""Example clips and files of users."""

from pathlib import Path

import pytest

from tangovlm.app.clips import Clip, examples
from tangovlm.app.limits import Limits
from tangovlm.errors import VideoError
from tangovlm.tiny.clip import write_demo
from tests.support.checkpoints import write_clip


@pytest.mark.parametrize("version", [1, 2])
def test_examples_have_names_and_pictures_of_their_own(version: int) -> None:
    found = examples(version)
    assert found[0].is_demo
    assert len({example.name for example in found}) == len(found) >= 3
    thumbnails = [example.thumbnail() for example in found]
    assert len(set(thumbnails)) == len(found)
    assert all(each.startswith("data:image/jpeg;base64,") and len(each) <= 10_000 for each in thumbnails)
    assert {example.version for example in found} == {1, version}


def test_the_demo_is_that_of_the_command(demo: Clip, tmp_path: Path) -> None:
    questions = write_demo(tmp_path / "demo.mp4")
    assert demo.path.read_bytes() == (tmp_path / "demo.mp4").read_bytes()
    assert demo.questions == tuple(questions[: len(demo.questions)])
    assert len(demo.questions) >= 5
    assert demo.truth(demo.questions[0][0]) == demo.questions[0][1]
    assert demo.truth("Where?") is None
    assert demo.seconds == pytest.approx(8.0)
    assert not demo.uploaded


def test_an_example_is_rendered_once(folder: Path, demo: Clip) -> None:
    example = examples()[0]
    first = example.clip(folder)
    written = first.path.stat().st_mtime_ns
    assert example.clip(folder) is first
    assert first.path.stat().st_mtime_ns == written


def test_a_file_of_a_user(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "5f0a.mp4")
    clip = Clip.read(path, "holiday.mp4", Limits())
    assert (clip.name, clip.uploaded, clip.questions) == ("holiday.mp4", True, ())
    assert clip.poster.startswith("data:image/jpeg;base64,")
    path.write_text("no video")
    with pytest.raises(VideoError, match=r"^holiday\.mp4: not a video"):
        Clip.read(path, "holiday.mp4", Limits())
