"""The rows of `bench scale`."""

import json
import math
from dataclasses import fields
from typing import Any

import pytest
import torch

from tangovlm.bench.prune import scale
from tangovlm.bench.prune.scale import COLUMNS, ScaleRow, check_frames, parse_grid
from tangovlm.bench.tables import markdown
from tangovlm.errors import InputError


def rows(**changes: Any) -> list[dict[str, Any]]:
    wanted: dict[str, Any] = {
        "grid": (3, 4, 24), "most_frames": 32, "most_videos": 3, "videos": ["still"], "retention": 0.1,
        "device": torch.device("cpu"), "repeats": 1, "progress": lambda words: None,
    }  # fmt: skip
    return list(scale.run(**(wanted | changes)))


def test_rows() -> None:
    found = rows()
    steps = [(row["axis"], row["shape"][0], row["videos"]) for row in found]
    assert steps == [("frames", 8, 1), ("frames", 16, 1), ("frames", 32, 1), ("videos", 32, 1), ("videos", 32, 2)]
    for row in found:
        assert set(row) == {field.name for field in fields(ScaleRow)}
        assert json.loads(json.dumps(row, allow_nan=False)) == row
        assert row["tokens_before"] == 12 * row["shape"][0] * row["videos"]
        assert row["ms_per_1000_tokens"] == pytest.approx(1000 * row["ms"] / row["tokens_before"])
    assert [row["tokens_after"] for row in found] == [10, 19, 38, 38, 76]
    assert [row["growth"] is None for row in found] == [True, False, False, True, False]
    assert found[2]["growth"] == pytest.approx(math.log2(found[2]["ms"] / found[1]["ms"]))
    assert 1 < found[2]["growth_of_distances"] < 2.5
    assert len(markdown(found, COLUMNS).splitlines()) == 7


def test_kinds_do_not_run_into_each_other() -> None:
    found = rows(videos=["still", "busy"], most_frames=8, most_videos=1)
    assert [(row["video"], row["growth"]) for row in found] == [
        ("still", None), ("still", None), ("busy", None), ("busy", None),
    ]  # fmt: skip


def test_grids_are_read() -> None:
    assert parse_grid("14,13,896") == (14, 13, 896)
    for text in ("14,14", "1,14,14,896", "14,x,8", "0,1,1", "9" * 5000 + ",1,1"):
        with pytest.raises(InputError, match=r"--shape is .*H,W,D, such as 14,14,896"):
            parse_grid(text)


def test_frames_begin_at_eight() -> None:
    assert check_frames(8) == 8
    with pytest.raises(InputError, match="--frames is 7: it must be at least 8"):
        check_frames(7)


def test_too_large_is_refused_at_once() -> None:
    with pytest.raises(
        InputError, match=r"needs about .*: choose fewer --frames or a smaller --batch or a smaller --shape"
    ):
        rows(most_frames=1 << 40)
