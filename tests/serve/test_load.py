"""The load test with real servers: its counts, not its times."""

import json
import math
from pathlib import Path

import pytest

from tangovlm.bench.server.model import Served
from tangovlm.budget import count
from tangovlm.cli import main
from tests.support.serve.engine import FORKED

pytest.importorskip("vllm")


def test_rows_of_two_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in FORKED.items():
        monkeypatch.setenv(name, value)
    out = tmp_path / "rows.jsonl"
    options = ["--frames", "64", "--concurrency", "2", "--requests", "2", "--retention", "0.1", "--out", str(out)]
    assert main(["bench", "serve", *options]) == 0
    stock, pruned = (json.loads(line) for line in out.read_text().splitlines())
    everything = Served.visual_tokens(64)
    assert (stock["retention"], pruned["retention"]) == (1.0, 0.1)
    # Except for the video, both prompts are the same.
    assert 0 < stock["prompt_tokens"] - everything == pruned["prompt_tokens"] - count(0.1, everything) < 20
    for row in (stock, pruned):
        assert row["kv_blocks"] == math.ceil((row["prompt_tokens"] + row["new_tokens"]) / row["block_size"])
        assert (row["concurrency"], row["repeats"]) == (2, 2)
        assert 0 < row["ttft_p50_ms"] <= row["ttft_p95_ms"]
        assert row["ttft_p50_ms"] < row["latency_p50_ms"]
        assert row["requests_s"] > 0
    assert pruned["blocks_saving"] >= 5
    assert pruned["versions"]["vllm"].startswith("0.")
