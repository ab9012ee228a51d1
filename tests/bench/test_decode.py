"""The rows of `bench decode`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tangovlm.bench import decode as benchmark
from tangovlm.bench.tables import markdown
from tangovlm.errors import InputError, VideoError
from tangovlm.video import decode
from tests.support import clips


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return clips.write(tmp_path / "clip.mp4", 61, gop=10)


def straight(file: Path, places: Sequence[int]) -> Any:
    """Another library: decodes everything."""
    return decode(file, 61).pixels.permute(0, 2, 3, 1).numpy()[list(places)]


def following(file: Path, places: Sequence[int]) -> Any:
    """One that takes the frames after the wanted ones."""
    return straight(file, [min(60, place + 1) for place in places])


def fails(file: Path, places: Sequence[int]) -> Any:
    raise ValueError("unknown codec")


@pytest.fixture(autouse=True)
def others(monkeypatch: pytest.MonkeyPatch) -> None:
    others = {"straight": ("json", straight), "following": ("json", following), "fails": ("json", fails)}
    monkeypatch.setattr(benchmark, "OTHERS", others | {"absent": ("no_such_package", fails)})


def test_a_row_for_each_reader(clip: Path) -> None:
    said: list[str] = []
    rows = list(benchmark.run(files=[clip], frames=4, repeats=3, progress=said.append))
    found = {row["reader"]: row for row in rows}
    assert list(found) == [*benchmark.READERS, "straight", "following"]
    assert said[0] == "absent is not installed: it is left out"
    assert said[1].startswith("clip.mp4: 4 times 4 frames with tangovlm, ")
    assert said[2] == "fails cannot read clip.mp4 (ValueError): it is left out"
    exact, near = found["tangovlm"], found["tangovlm, seek=keyframe"]
    assert set(exact) == set(benchmark.DecodeRow.__dataclass_fields__)
    assert {name: exact[name] for name in ("clip", "codec", "height", "width", "clip_frames", "frames")} == {
        "clip": "clip.mp4", "codec": "h264", "height": clips.HEIGHT, "width": clips.WIDTH, "clip_frames": 61,
        "frames": 4,
    }  # fmt: skip
    assert (exact["ratio"], exact["cpu_ratio"], exact["difference"], exact["furthest_s"]) == (1, 1, 0, 0)
    moved = (decode(clip, 4, seek="keyframe").timestamps_s - decode(clip, 4).timestamps_s).abs().max()
    assert near["furthest_s"] == moved
    assert (near["difference"] > 5) == (moved > 0)
    assert (found["straight"]["difference"], found["straight"]["furthest_s"]) == (0, None)
    assert found["following"]["difference"] > 5
    assert all(row["ms"] > 0 and row["cpu_ms"] > 0 and row["repeats"] == 3 for row in rows)
    json.dumps(rows, allow_nan=False)
    assert "| clip.mp4 | straight | 4 |" in markdown(rows, benchmark.COLUMNS)


def test_ratios_are_those_of_pairs(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine slows down from run to run: a median of ratios, not a ratio of medians."""
    clock = iter([(10.0, 1.0), (20.0, 3.0), (100.0, 10.0), (400.0, 20.0), (50.0, 4.0), (50.0, 8.0)])
    seconds = ((None, wall_ms / 1e3, cpu_ms / 1e3) for wall_ms, cpu_ms in clock)
    monkeypatch.setattr(benchmark, "wall_and_cpu_s", lambda call, device: next(seconds))
    monkeypatch.setattr(benchmark, "READERS", {"tangovlm": {}})
    monkeypatch.setattr(benchmark, "OTHERS", {"straight": ("json", straight)})
    exact, other = benchmark.run(files=[clip], frames=2, repeats=3, progress=lambda line: None)
    assert (exact["ms"], exact["cpu_ms"]) == (50, 4)
    assert (other["ms"], other["cpu_ms"], other["ratio"], other["cpu_ratio"]) == (50, 8, 2, 2)


def test_frames_that_are_missing() -> None:
    pictures = np.zeros((3, 4, 4, 3), np.uint8)
    assert benchmark._difference(pictures, pictures + np.array([[[[3]]], [[[0]]], [[[1]]]], np.uint8)) == 3
    assert benchmark._difference(pictures[:2], pictures) == 255


def test_what_is_no_video(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one file"):
        list(benchmark.run(files=[], progress=lambda line: None))
    with pytest.raises(VideoError, match="No such file"):
        list(benchmark.run(files=[tmp_path / "none.mp4"], progress=lambda line: None))
