"""How lmms-eval is started, and how its files are read."""

import shutil
from pathlib import Path

import pytest

from tangovlm.errors import InputError
from tangovlm.evaluate.harness.records import Record, Records
from tangovlm.evaluate.harness.requests import Completion
from tangovlm.evaluate.harness.settings import Settings
from tangovlm.evaluate.reproduce import models
from tangovlm.evaluate.reproduce.harnesses import answers
from tangovlm.evaluate.reproduce.harnesses.base import RowJob
from tangovlm.evaluate.reproduce.harnesses.lmms_eval import LmmsEval
from tests.support.reproduce import FOUR, row_job

CANNED = Path(__file__).with_name("canned") / "lmms_eval"


def canned(folder: Path) -> RowJob:
    shutil.copytree(CANNED, folder)
    return row_job(folder, "10-and-st-rope-tango", models.TINY, limit=4, data=folder / "data")


def test_lmms_eval_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tangovlm.evaluate.reproduce.harnesses.lmms_eval.version", lambda harness: "0.7.3")
    own = canned(tmp_path / "harness")
    completion = Completion("pink", 512, 51, 100, 2, {"encode": 10.0, "prefill": 5.0, "decode_tokens": 1.0})
    with Records(own.folder / "records", own.step.row.settings(own.plan.shape), about={"device": "cpu"}) as records:
        records.add(Record("tango_videomme", "0", "some key", completion))
    results = LmmsEval().collect(own)
    assert answers.scores(results, FOUR) == {
        "mvbench": 75.0, "longvideobench": 75.0, "mlvu": 75.0, "videomme": 75.0, "average": 75.0,
        "videomme/short": 100.0, "videomme/medium": 0.0, "videomme/long": None,
    }  # fmt: skip
    assert results.harness == "lmms-eval 0.7.3"
    # Its mean over seven kinds counts those without a question.
    assert results.reported == {"mvbench": 75, "longvideobench": 75, "videomme": 75, "mlvu": pytest.approx(300 / 7)}
    assert {each.clip for each in results.of("videomme")} == {each.clip for each in results.of("longvideobench")}
    assert (results.measured["ttft_ms"], results.measured["device"]) == (15, "cpu")
    answers.save(tmp_path / "results.json", results)
    assert answers.load(tmp_path / "results.json") == results


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda folder: [path.unlink() for path in folder.glob("*_results.json")], "has no *_results.json"),
        (lambda folder: [path.unlink() for path in folder.glob("*videomme.jsonl")], "has no answers of tango_videomme"),
        (lambda folder: cut(next(folder.glob("*mlvu.jsonl"))), "line 4 is no JSON"),
        (lambda folder: next(folder.glob("*_results.json")).write_text("{"), "is no JSON"),
        (lambda folder: next(folder.glob("*mvbench.jsonl")).write_text('{"doc_id": 0}\n'), "has another format"),
    ],
)
def test_damaged_files_are_named(damage: object, complaint: str, tmp_path: Path) -> None:
    own = canned(tmp_path / "harness")
    damage(own.folder / "tangovlm-tiny")  # type: ignore[operator]
    with pytest.raises(InputError) as caught:
        LmmsEval().collect(own)
    assert complaint in str(caught.value)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def test_lmms_eval_is_started_with_the_row(tmp_path: Path) -> None:
    command = LmmsEval().command(row_job(tmp_path, "10-tango-and-tango-fastv", table="table2", gpus=8, limit=50))
    words = command.words
    assert words[1:5] == ["-m", "accelerate.commands.launch", "--num_processes=8", "-m"]
    arguments = dict(pair.split("=", 1) for pair in words[words.index("--model_args") + 1].split(","))
    assert arguments == {
        "pretrained": models.LLAVA_VIDEO, "method": "tango", "retention": "0.1", "frames": "64",
        "in_llm": "tango-fastv", "records": str(tmp_path / "records"),
    }  # fmt: skip
    assert words[words.index("--tasks") + 1] == "mvbench,longvideobench_val_v,mlvu_dev,videomme"
    assert words[words.index("--limit") + 1] == "50"
    read = Settings.read(**{name: value for name, value in arguments.items() if name != "records"})
    row = row_job(tmp_path, "10-tango-and-tango-fastv", table="table2").step.row
    assert read == row.settings(models.shape_of(models.LLAVA_VIDEO))
