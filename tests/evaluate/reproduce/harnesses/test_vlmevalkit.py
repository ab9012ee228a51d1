"""How VLMEvalKit is started, and how its files are read."""

import importlib.util
import json
from pathlib import Path

import pytest

from tangovlm.errors import InputError
from tangovlm.evaluate.harness.vlmevalkit.results import RunDirectory
from tangovlm.evaluate.reproduce import models
from tangovlm.evaluate.reproduce.harnesses import answers
from tangovlm.evaluate.reproduce.harnesses.vlmevalkit import VLMEvalKit
from tests.support.reproduce import FOUR, row_job


def test_vlmevalkit_is_started_with_the_row(tmp_path: Path) -> None:
    words = VLMEvalKit().command(row_job(tmp_path, "10-tango-the-release", table="table1", gpus=2)).words
    assert words[1:5] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    assert [words[place + 1] for place, word in enumerate(words) if word == "--data"] == [
        "MVBench_MP4_32frame", "LongVideoBench_32frame", "MLVU_MCQ_32frame", "Video-MME_32frame",
    ]  # fmt: skip
    data = VLMEvalKit().command(row_job(tmp_path, "10-tango", models.TINY, table="table1", data=tmp_path)).words
    assert data[data.index("--data-dir") + 1] == str(tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("pandas") is None, reason="VLMEvalKit's tables want pandas")
def test_vlmevalkit_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tangovlm.evaluate.reproduce.harnesses.vlmevalkit.version", lambda harness: "0.0.20")
    own = row_job(tmp_path, "10-tango", table="table1")
    directory = RunDirectory(tmp_path, own.step.row.settings(own.plan.shape))
    directory.path.mkdir(parents=True)
    with pytest.raises(InputError, match="has no scores of MVBench_MP4_32frame"):
        VLMEvalKit().collect(own)
    for benchmark in FOUR:
        rows = [
            {
                "index": n,
                "video": f"v{n // 2}",
                "prediction": "A",
                "score": score,
                "duration": "long",
                "task_type": kind,
            }
            for n, (score, kind) in enumerate(((1, "a"), (1, "a"), (0, "a"), (-1, "b")))
        ]
        path = directory.path / f"{directory.name}_{benchmark.dataset}_32frame_score.json"
        path.write_text(json.dumps(rows))
    results = VLMEvalKit().collect(own)
    scored = answers.scores(results, FOUR)
    assert scored["videomme"] == scored["videomme/long"] == scored["longvideobench"] == 50
    assert scored["mlvu"] == scored["mvbench"] == pytest.approx(100 / 3)
    assert {each.clip for each in results.answers} == {"v0", "v1"}
