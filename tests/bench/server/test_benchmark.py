"""The rows of the load test, without a server."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tangovlm.bench.server import benchmark
from tangovlm.bench.server.load import Reply
from tangovlm.bench.tables import markdown
from tangovlm.errors import InputError


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Options of the servers that a run starts, which are none."""
    options: list[list[str]] = []

    @contextlib.contextmanager
    def serving(model: Path, given: list[str], environment: dict[str, str]) -> Iterator[Any]:
        assert (model / "model.safetensors").is_file()
        options.append(given)
        yield SimpleNamespace(port=1, block_size=32)

    def drive(port: int, bodies: list[dict[str, Any]], concurrency: int) -> tuple[list[Reply], float]:
        pruned = any("tango" in option for option in options[-1])
        tokens = 108 if pruned else 1030
        texts = {json.dumps(body) for body in bodies}
        assert len(texts) == len(bodies)
        replies = [Reply(place + 1.0, place + 2.0, tokens, 16) for place in range(len(bodies))]
        return replies, len(bodies) * (0.5 if pruned else 1.0)

    monkeypatch.setattr(benchmark, "serving", serving)
    monkeypatch.setattr(benchmark, "drive", drive)
    monkeypatch.setattr(benchmark, "find_spec", lambda name: object())
    return options


def test_each_beside_its_unpruned_row(started: list[list[str]]) -> None:
    told: list[str] = []
    rows = list(benchmark.run(frames=4, concurrencies=[1, 4], retentions=[0.1], requests=5, progress=told.append))
    assert [(row["retention"], row["concurrency"]) for row in rows] == [(1.0, 1), (1.0, 4), (0.1, 1), (0.1, 4)]
    assert [row["requests_s"] for row in rows] == [1.0, 1.0, 2.0, 2.0]
    assert [row["speedup"] for row in rows] == [1.0, 1.0, 2.0, 2.0]
    # 1,030 or 108 tokens of the prompt and 16 of the answer in blocks of 32.
    assert [row["kv_blocks"] for row in rows] == [33, 33, 4, 4]
    assert rows[-1]["blocks_saving"] == 33 / 4
    assert [(row["ttft_p50_ms"], row["latency_p50_ms"]) for row in rows] == [(3000.0, 4000.0)] * 4
    assert rows[0]["ttft_p95_ms"] == pytest.approx(4800)
    assert rows[0]["versions"].keys() >= {"vllm", "torch"}
    assert set(rows[0]) == set(benchmark.ServeRow.__dataclass_fields__)
    json.dumps(rows, allow_nan=False)
    assert "| 33 " in markdown(rows, benchmark.COLUMNS)
    assert "5 requests, 4 at a time" in told[-1]
    # The two servers differ in what switches pruning on, and in nothing else.
    stock, pruned = started
    assert pruned[: len(stock)] == stock
    assert pruned[len(stock) :] == ["--hf-overrides", '{"tango": {"retention": 0.1}}']


def test_number_of_requests(started: list[list[str]]) -> None:
    rows = list(benchmark.run(frames=2, concurrencies=[1, 5], retentions=[1.0], progress=lambda words: None))
    assert [row["repeats"] for row in rows] == [10, 15]


@pytest.mark.parametrize("wrong", [{"frames": 0}, {"concurrencies": [0]}, {"requests": 0}, {"retentions": [7]}])
def test_wrong_numbers(started: list[list[str]], wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"at least 1|in \(0, 1\]"):
        next(benchmark.run(progress=lambda words: None, **wrong))
    assert started == []
