"""The rows of `bench prune`: what they hold, and how their figures belong together."""

import json
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
import torch

from tangovlm.bench import memory
from tangovlm.bench.prune import benchmark
from tangovlm.bench.prune.benchmark import COLUMNS, PruneRow, Rates
from tangovlm.bench.prune.floor import clustered, known_flops
from tangovlm.bench.prune.inputs import default_dtype, memory_request
from tangovlm.bench.tables import markdown
from tangovlm.bench.videos import Shape, synthetic
from tangovlm.errors import InputError, MethodError

CPU = torch.device("cpu")
SHAPE = Shape(8, 5, 6, 48)


@pytest.fixture(autouse=True)
def _rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rates, "measure", classmethod(lambda cls, device: cls(gflops=2.0, gb_s=4.0)))


def rows(**changes: Any) -> list[dict[str, Any]]:
    told: list[str] = []
    wanted: dict[str, Any] = {"shapes": [SHAPE], "videos": ["still", "busy"], "retention": 0.1, "device": CPU}
    found: Iterator[dict[str, Any]] = benchmark.run(**(wanted | {"repeats": 2, "progress": told.append} | changes))
    return list(found)


def test_rows() -> None:
    found = rows()
    assert [row["video"] for row in found] == ["still", "busy"]
    for row in found:
        assert set(row) == {field.name for field in fields(PruneRow)}
        assert json.loads(json.dumps(row, allow_nan=False)) == row
        assert (row["shape"], row["tokens_before"], row["tokens_after"]) == ([8, 5, 6, 48], 240, 24)
        assert (row["name"], row["device"], row["dtype"], row["kernel"]) == ("chosen", "cpu", "float32", "torch")
        assert (row["repeats"], row["reference_repeats"], row["reference_note"]) == (2, 2, None)
        assert (row["equal_kept"], row["overlap"]) == (True, 1.0)
        assert 0 < row["ms"] <= row["p80_ms"]
        assert row["speedup"] == row["reference_ms"] / row["ms"]
        assert row["over_floor"] == row["ms"] / row["floor_ms"]
        assert row["floor_ms"] == pytest.approx(row["known_flops"] / 2e9 * 1e3)
        assert row["floor_bytes_ms"] == pytest.approx(240 * 48 * 4 / 4e9 * 1e3)
        assert row["peak_extra_mb"] >= 0
        tokens = synthetic(SHAPE, row["video"])
        points = clustered(tokens, benchmark.tangovlm.Tango()(tokens), 0.1)
        assert row["known_flops"] == known_flops(points, 48) > 0
        assert (row["method"], row["tango_ms"]) == ("tango", None)
    assert [row["segments"] for row in found] == [4, 8]
    assert len(markdown(found, COLUMNS).splitlines()) == 4


@pytest.mark.parametrize(("method", "note"), [("milonga", None), ("uniform", "the method has none")])
def test_other_methods_are_timed_beside_tango(method: str, note: str | None) -> None:
    (row,) = rows(videos=["busy"], method=method)
    assert (row["method"], row["tokens_after"], row["reference_note"]) == (method, 24, note)
    assert row["tango_ms"] > 0
    assert row["equal_kept"] is (None if note else True)
    assert (row["known_flops"], row["floor_ms"], row["over_floor"]) == (0, 0, None)
    assert markdown([row], COLUMNS).splitlines()[-1].startswith(f"| {method} |")


def test_methods_inside_the_model_are_refused() -> None:
    with pytest.raises(MethodError, match="'fastv', which needs a language model"):
        rows(method="fastv")


def test_without_the_reference() -> None:
    (row,) = rows(videos=["busy"], reference=False, dtype=torch.float16)
    assert row["dtype"] == "float16"
    assert row["reference_note"] == "not asked for"
    assert {row[name] for name in ("reference_ms", "speedup", "equal_kept", "overlap")} == {None}
    assert row["reference_repeats"] == 0
    markdown([row], COLUMNS)


def test_reference_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "available_bytes", lambda device: 1000)
    (row,) = rows(videos=["busy"])
    assert row["reference_ms"] is None
    assert row["reference_note"].startswith("needs about ")
    assert row["ms"] > 0


def test_other_tokens_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = benchmark.tango_reference
    monkeypatch.setattr(benchmark, "tango_reference", lambda tokens, retention: real(tokens, 2 * retention))
    (row,) = rows(videos=["busy"])
    assert row["equal_kept"] is False
    assert 0 < row["overlap"] <= 1


def test_everything_kept_has_no_floor() -> None:
    (row,) = rows(videos=["busy"], retention=1.0)
    assert (row["tokens_after"], row["known_flops"], row["over_floor"]) == (240, 0, None)


def test_standard_shapes_have_a_type_that_fits() -> None:
    assert [default_dtype(shape, CPU) for shape in benchmark.SHAPES.values()] == [torch.float32] * 3 + [torch.float16]
    assert default_dtype(SHAPE, torch.device("cuda")) == torch.bfloat16


def test_too_large_is_refused_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "make_video", None)
    # The reference is not in the estimate, so leaving it out would not help.
    words = r"1000000x14x14x3584 .* needs about 4214\.8 GB .*: choose --dtype float16 or a smaller --shape$"
    with pytest.raises(InputError, match=words):
        rows(shapes=[SHAPE, Shape(1000000, 14, 14, 3584)], dtype=torch.float32)


def test_running_out_of_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "tango_reference", lambda tokens, retention: torch.empty(1 << 50))
    with pytest.raises(InputError, match=r"pruning 8x5x6x48 in float32 ran out of memory on cpu .*--no-reference"):
        rows()
    monkeypatch.setattr(benchmark, "make_video", lambda *_args: torch.empty(1 << 50))
    with pytest.raises(InputError, match=r"ran out of memory on cpu .*: choose a smaller --shape$"):
        rows(reference=False, dtype=torch.float16)


def test_room_beside_the_videos() -> None:
    large = Shape(1024, 14, 14, 3584)
    size = large.tokens * large.dim * 2
    assert memory_request(large, torch.float16, CPU, ())[0] == size + size // 2
    assert memory_request(SHAPE, torch.float32, CPU, (), 3)[0] == 3 * 46080 + 250 * memory.MB
