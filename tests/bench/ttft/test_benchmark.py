"""Rows of `bench ttft` on tiny models; no test looks at a time."""

import json
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
import torch

from tangovlm import budget
from tangovlm.bench import memory
from tangovlm.bench.tables import markdown
from tangovlm.bench.ttft import benchmark
from tangovlm.bench.ttft.models import LlavaOnevision
from tangovlm.bench.ttft.stages import STAGES
from tangovlm.errors import InputError

CPU = torch.device("cpu")
TOKENS = 2 * 14 * 14


def measured(**options: Any) -> list[dict[str, Any]]:
    given: dict[str, Any] = {"size": "tiny", "models": ["llava-onevision"], "frames": [2], "batches": [1]}
    given |= {"retentions": [0.1], "device": CPU, "repeats": 1, "progress": lambda _text: None}
    return list(benchmark.run(**given | options))


class Spied(LlavaOnevision):
    """Writes down how each call of `generate` found the model."""

    seen: list[dict[str, Any]]
    models: list[Any]
    starved_when_attached = False
    starved_from = 0

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        inner = self.model.generate
        self.models.append(self.model)

        def generate(**kwargs: Any) -> Any:
            attached = hasattr(self.encoder.get_video_features, "_tangovlm_attached")
            self.seen.append({"attached": attached, "new": kwargs["max_new_tokens"], "hooks": self.hooks()})
            if attached and self.starved_when_attached and len(self.seen) > self.starved_from:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return inner(**kwargs)

        # On the class of this one object, so that the instance looks untouched.
        self.model.__class__ = type(
            "Model", (type(self.model),), {"generate": lambda _self, **kwargs: generate(**kwargs)}
        )

    def hooks(self) -> int:
        return len(self.tower._forward_pre_hooks)


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Spied]]:
    monkeypatch.setattr(Spied, "seen", [], raising=False)
    monkeypatch.setattr(Spied, "models", [], raising=False)
    monkeypatch.setitem(benchmark.HOSTS, "llava-onevision", Spied)
    return Spied


def test_rows() -> None:
    rows = measured(models=["llava-onevision"], retentions=[0.1, 1.0, 0.1], batches=[2])
    assert [row["retention"] for row in rows] == [1.0, 0.1]
    for row in rows:
        assert list(row) == [field.name for field in fields(benchmark.TtftRow)]
        assert json.loads(json.dumps(row, allow_nan=False)) == row
        assert (row["frames"], row["batch"], row["dtype"], row["device"]) == (2, 2, "float32", "cpu")
        assert row["tokens_before"] == TOKENS
        assert row["tokens_after"] == budget.count(row["retention"], TOKENS)
        assert all(row[f"{stage}_ms"] > 0 for stage in STAGES if stage != "prune")
        assert row["ttft_ms"] > 0 and row["decode_tok_s"] > 0 and row["peak_mb"] > row["weights_mb"] > 0
        assert row["note"] is None
        assert row["speedup"] == pytest.approx(rows[0]["ttft_ms"] / row["ttft_ms"])
    assert rows[0]["prune_ms"] == rows[0]["prune_share"] == 0
    assert all(row["prune_ms"] > 0 and 0 < row["prune_share"] < 1 and row["segments"] >= 1 for row in rows[1:])
    assert len(markdown(rows, benchmark.COLUMNS).splitlines()) == 4


def test_the_unpruned_row_is_the_stock_model(spied: type[Spied]) -> None:
    measured(repeats=2)
    calls = spied.seen
    # For each of the two rows one metered and one warm-up; timed in turns; then one of many tokens, two in stages.
    turns = [False, False, True, True] + [False, True] * 2 + [False] * 3 + [True] * 3
    assert [call["attached"] for call in calls] == turns
    assert [call["new"] for call in calls] == [1] * 8 + [1 + benchmark.NEW_TOKENS, 1, 1] * 2
    # Nothing is hung on the tower while the whole is timed.
    assert [call["hooks"] for call in calls] == [0] * 8 + [0, 1, 1] * 2
    (model,) = spied.models
    assert "get_video_features" not in vars(model.model)
    assert sum(len(module._forward_pre_hooks) for module in model.modules()) == 0


@pytest.mark.parametrize("calls_before", [0, 7])
def test_out_of_memory_costs_the_row_only(
    spied: type[Spied], monkeypatch: pytest.MonkeyPatch, calls_before: int
) -> None:
    monkeypatch.setattr(spied, "starved_when_attached", True)
    monkeypatch.setattr(spied, "starved_from", calls_before)
    rows = measured(retentions=[0.2, 0.1])
    assert [row["note"] for row in rows] == [None, "out of memory", "out of memory"]
    assert rows[1]["ttft_ms"] is rows[1]["speedup"] is rows[1]["peak_mb"] is rows[1]["memory_meter"] is None
    assert len(markdown(rows, benchmark.COLUMNS).splitlines()) == 5


def test_qwen_is_pruned() -> None:
    stock, pruned = measured(models=["qwen2.5-vl"], frames=[3])
    assert stock["tokens_before"] == stock["tokens_after"] == TOKENS
    assert stock["ttft_ms"] > 0 and stock["tower_ms"] > 0 and stock["project_ms"] > 0
    assert pruned["note"] is None
    assert pruned["tokens_after"] == budget.count(pruned["retention"], TOKENS)
    assert pruned["ttft_ms"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "13b"}, r"size is '13b': choose 7b, 0\.5b, tiny"),
        ({"models": ["gpt"]}, r"model is 'gpt': choose llava-onevision, qwen2\.5-vl"),
        ({"frames": [0]}, "at least 1"),
        ({"repeats": 0}, "at least 1"),
        ({"retentions": [1.5]}, "retention"),
    ],
)
def test_bad_input(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        measured(**options)


def test_too_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda _device: 10**10)
    with pytest.raises(InputError, match=r"llava-onevision of size 7b with 64 frames and batch 8 needs about .*--size"):
        measured(size="7b", frames=[32, 64], batches=[1, 8])
