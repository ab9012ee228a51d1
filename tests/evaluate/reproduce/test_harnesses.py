"""What either harness is started with, and how its own files are read."""

import importlib.util
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from tangovlm.errors import InputError
from tangovlm.evaluate.harness.records import Record, Records
from tangovlm.evaluate.harness.requests import Answered
from tangovlm.evaluate.harness.settings import Settings
from tangovlm.evaluate.harness.vlmevalkit.results import RunDir
from tangovlm.evaluate.reproduce import benchmarks, models, planning, tables
from tangovlm.evaluate.reproduce.harnesses import answers
from tangovlm.evaluate.reproduce.harnesses import base as harnesses
from tangovlm.evaluate.reproduce.harnesses.lmms_eval import LmmsEval
from tangovlm.evaluate.reproduce.harnesses.vlmevalkit import VLMEvalKit

FOUR = benchmarks.chosen(())
CANNED = Path(__file__).with_name("canned") / "lmms_eval"


def work(folder: Path, key: str, model: str | None = None, **options: object) -> harnesses.Work:
    data = options.pop("data", None)
    name = str(options.pop("table", "table3"))
    made = planning.make(tables.table(name), model, FOUR, rows=[key], **options)  # type: ignore[arg-type]
    assert isinstance(data, Path | None)
    return harnesses.Work(made, made.steps[-1], folder, data)


def canned(folder: Path) -> harnesses.Work:
    shutil.copytree(CANNED, folder)
    return work(folder, "10-and-st-rope-tango", models.TINY, limit=4, data=folder / "data")


def test_lmms_eval_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tangovlm.evaluate.reproduce.harnesses.lmms_eval.version", lambda harness: "0.7.3")
    own = canned(tmp_path / "harness")
    answered = Answered("pink", 512, 51, 100, 2, {"encode": 10.0, "prefill": 5.0, "decode_tokens": 1.0})
    with Records(own.folder / "records", own.step.row.settings(own.plan.shape), about={"device": "cpu"}) as records:
        records.add(Record("tango_videomme", "0", "some key", answered))
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
        (lambda folder: next(folder.glob("*mvbench.jsonl")).write_text('{"doc_id": 0}\n'), "has another form"),
    ],
)
def test_damaged_files_are_named(damage: object, complaint: str, tmp_path: Path) -> None:
    own = canned(tmp_path / "harness")
    damage(own.folder / "tangovlm-tiny")  # type: ignore[operator]
    with pytest.raises(InputError) as told:
        LmmsEval().collect(own)
    assert complaint in str(told.value)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def test_lmms_eval_is_started_with_the_row(tmp_path: Path) -> None:
    command = LmmsEval().command(work(tmp_path, "10-tango-and-tango-fastv", table="table2", gpus=8, limit=50))
    words = command.words
    assert words[1:5] == ["-m", "accelerate.commands.launch", "--num_processes=8", "-m"]
    told = dict(pair.split("=", 1) for pair in words[words.index("--model_args") + 1].split(","))
    assert told == {
        "pretrained": models.LLAVA_VIDEO, "method": "tango", "retention": "0.1", "frames": "64",
        "in_llm": "tango-fastv", "records": str(tmp_path / "records"),
    }  # fmt: skip
    assert words[words.index("--tasks") + 1] == "mvbench,longvideobench_val_v,mlvu_dev,videomme"
    assert words[words.index("--limit") + 1] == "50"
    read = Settings.read(**{name: value for name, value in told.items() if name != "records"})
    row = work(tmp_path, "10-tango-and-tango-fastv", table="table2").step.row
    assert read == row.settings(models.shape_of(models.LLAVA_VIDEO))


@pytest.mark.parametrize("name", tables.names())
def test_every_row_comes_through_the_arguments_as_it_is(name: str, tmp_path: Path) -> None:
    made = planning.make(tables.table(name), None, FOUR)
    for step in made.steps:
        own = harnesses.Work(made, step, tmp_path)
        words = LmmsEval().command(own).words
        told = dict(pair.split("=", 1) for pair in words[words.index("--model_args") + 1].split(","))
        del told["records"]
        wanted = step.row.settings(made.shape)
        assert Settings.read(**told) == wanted
        kit = VLMEvalKit().command(own).words
        params = [kit[place + 1] for place, word in enumerate(kit) if word == "--param"]
        given = {option: kit[kit.index(f"--{option}") + 1] for option in ("method", "retention", "frames")}
        found = Settings.read(
            pretrained=kit[kit.index("--model") + 1], **given, **dict(pair.split("=", 1) for pair in params)
        )
        assert asdict(found) == asdict(wanted)


def test_vlmevalkit_is_started_with_the_row(tmp_path: Path) -> None:
    words = VLMEvalKit().command(work(tmp_path, "10-tango-the-release", table="table1", gpus=2)).words
    assert words[1:5] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    assert [words[place + 1] for place, word in enumerate(words) if word == "--data"] == [
        "MVBench_MP4_32frame", "LongVideoBench_32frame", "MLVU_MCQ_32frame", "Video-MME_32frame",
    ]  # fmt: skip
    data = VLMEvalKit().command(work(tmp_path, "10-tango", models.TINY, table="table1", data=tmp_path)).words
    assert data[data.index("--data-dir") + 1] == str(tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("pandas") is None, reason="VLMEvalKit's tables want pandas")
def test_vlmevalkit_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tangovlm.evaluate.reproduce.harnesses.vlmevalkit.version", lambda harness: "0.0.20")
    own = work(tmp_path, "10-tango", table="table1")
    directory = RunDir(tmp_path, own.step.row.settings(own.plan.shape))
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


def test_the_default_is_vlmevalkit_and_lmms_eval_for_times(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"vlmevalkit": "0.0.20", "lmms-eval": "0.7.3"}
    monkeypatch.setattr(harnesses, "version", lambda harness: installed.get(harness.name))
    assert [harnesses.choose(None)[0].name, harnesses.choose(None, timed=True)[0].name] == ["vlmevalkit", "lmms-eval"]
    del installed["vlmevalkit"]
    chosen, note = harnesses.choose(None)
    assert chosen.name == "lmms-eval"
    assert note is not None
    assert note.startswith("vlmevalkit is not installed: lmms-eval is taken")
    assert harnesses.choose("vlmevalkit")[0].name == "vlmevalkit"
    del installed["lmms-eval"]
    assert harnesses.choose(None)[0].name == "vlmevalkit"
