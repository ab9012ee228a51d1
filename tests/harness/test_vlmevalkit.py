"""VLMEvalKit itself, on the embedded model and miniature data sets: its answers and scores are ours, one by one."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import tangovlm
from tangovlm.evaluate.harness.answerer import Answerer
from tangovlm.evaluate.harness.records import read
from tangovlm.evaluate.harness.requests import GenerationOptions, Request
from tangovlm.evaluate.harness.settings import Settings
from tangovlm.evaluate.harness.vlmevalkit import miniature
from tangovlm.evaluate.harness.vlmevalkit.command import command_line
from tangovlm.evaluate.harness.vlmevalkit.presets import DATA_SETS
from tangovlm.evaluate.harness.vlmevalkit.results import RunDirectory, Score, accuracy
from tangovlm.pipeline.load import VideoLLM, load
from tests.harness.vlmevalkit_prompts import asked, prompt
from tests.support.serve.qwen_checkpoints import qwen2_5_vl

pytestmark = pytest.mark.skipif(importlib.util.find_spec("vlmeval") is None, reason="VLMEvalKit is not installed")

FRAMES, QUESTIONS = 8, 4
PRESETS = [f"{name}_{FRAMES}frame" for name in DATA_SETS]
RETENTIONS = (1.0, 0.2)
DRIVER = Path(__file__).with_name("vlmevalkit_driver.py")

IN_ORDER = (
    "{% for message in messages %}{% for part in message['content'] %}{% if part['type'] == 'video' %}"
    "<|vision_start|><|video_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    miniature.write(folder, clips=2, questions=2)
    return folder


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed VLMEvalKit in the layout of a checkout: `run.py` next to the package."""
    folder = tmp_path_factory.mktemp("checkout")
    (package := folder / "vlmeval").mkdir()
    spec = importlib.util.find_spec("vlmeval")
    assert spec is not None and spec.origin is not None
    for file in Path(spec.origin).parent.iterdir():
        (folder if file.name == "run.py" else package).joinpath(file.name).symlink_to(file)
    return folder


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2.5-VL of random weights, whose chat template writes the parts of a turn in their order."""
    folder = qwen2_5_vl(tmp_path_factory.mktemp("qwen"))
    (folder / "chat_template.jinja").write_text(IN_ORDER)
    return folder


@pytest.fixture(scope="module")
def runs(data: Path, checkout: Path, qwen: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The outcomes of the command lines, by name, and the work directory."""
    work = tmp_path_factory.mktemp("work")
    killed = run_dir(work / "killed", 0.2).records / f"{FRAMES}frame" / "records-0.jsonl"
    others = argv(work, data, retention=0.2, positions="contiguous")
    commands = {
        "unpruned": (argv(work, data, retention=1.0), None),
        "pruned": (argv(work, data, retention=0.2), None),
        "killed": (argv(work / "killed", data, PRESETS[:2], retention=0.2), (str(killed), 1 + 2)),
        "resumed": (argv(work / "killed", data, PRESETS[:2], retention=0.2), None),
        "again": ([word for word in argv(work, data, retention=0.2) if word != "--reuse"], None),
        "other": (others, None),
        "limited": (argv(work, data, limit=1, retention=0.2), None),
        "one": ([*argv(work / "one", data, PRESETS[1:2], limit=1, retention=0.2), "--json"], None),
        "checkout": (
            [*argv(work / "checkout", data, PRESETS[1:2], limit=1, retention=0.2), "--vlmevalkit", str(checkout)],
            None,
        ),
        "qwen": (
            [
                *command_line(asked_of(qwen), PRESETS[1:2], work / "qwen", 2, data_dir=data)[1:],
                *("--max-new-tokens", "4", "--", "--mode", "infer"),
            ],
            None,
        ),
        "missing": (argv(work / "missing", work, PRESETS[:1]), None),
        "unknown": (argv(work / "unknown", data, ["Video-Meme_8frame"]), None),
        "open": (argv(work / "open", data, ["MLVU_8frame"]), None),
    }
    asked = json.dumps([{"args": args, "kill": kill} for args, kill in commands.values()])
    done = subprocess.run(
        [sys.executable, str(DRIVER)], input=asked, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout.splitlines()[-1])
    return {"work": work, **dict(zip(commands, outcomes, strict=True))}


@pytest.fixture(scope="module")
def llm() -> VideoLLM:
    return load(None)


def argv(work: Path, data: Path, presets: list[str] = PRESETS, limit: int | None = None, **settings: Any) -> list[str]:
    return command_line(Settings("tangovlm-tiny", **settings), presets, work, limit, data_dir=data)[1:]


def asked_of(qwen: Path) -> Settings:
    return Settings(str(qwen), retention=0.3, frames=FRAMES)


def environment() -> dict[str, str]:
    """Without a way to the hub, and with a thread a process."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def run_dir(work: Path, retention: float) -> RunDirectory:
    return RunDirectory(work, Settings("tangovlm-tiny", retention=retention))


def scores(work: Path, retention: float, preset: str) -> list[Score]:
    found = run_dir(work, retention).scores(preset)
    assert found is not None
    return found


@pytest.mark.parametrize("retention", RETENTIONS)
@pytest.mark.parametrize("name", DATA_SETS)
def test_answers_are_those_of_ask(
    runs: Mapping[str, Any], data: Path, llm: VideoLLM, name: str, retention: float
) -> None:
    outcome = runs["unpruned" if retention == 1.0 else "pruned"]
    assert outcome["status"] == 0, outcome["err"]
    found = scores(runs["work"], retention, f"{name}_{FRAMES}frame")
    assert len(found) == QUESTIONS
    for score in found:
        video = data / name / DATA_SETS[name].video(score.row)
        said = tangovlm.ask(video, prompt(name, score), model=llm, frames=FRAMES, retention=retention)
        assert score.prediction == said


@pytest.mark.parametrize("retention", RETENTIONS)
@pytest.mark.parametrize("preset", PRESETS)
def test_scores_are_ours_question_by_question(runs: Mapping[str, Any], preset: str, retention: float) -> None:
    found = scores(runs["work"], retention, preset)
    for score in found:
        _, options, right = asked(score)
        named = [option for option in options if option in score.prediction.split()]
        assert score.score == (named == [right]), score
    shown = runs["unpruned" if retention == 1.0 else "pruned"]["out"].splitlines()
    assert f"{preset}: {100 * accuracy(found):.1f} % of {QUESTIONS} questions" in shown


def test_some_answers_are_right_and_some_wrong(runs: Mapping[str, Any]) -> None:
    found = [score.score for preset in PRESETS for score in scores(runs["work"], 1.0, preset)]
    assert 0 < sum(found) < len(found)


@pytest.mark.parametrize("retention", RETENTIONS)
def test_records_say_what_was_kept(runs: Mapping[str, Any], retention: float) -> None:
    content = read(run_dir(runs["work"], retention).records / f"{FRAMES}frame")
    found = {(record.task, record.doc): record.completion for record in content.records.values()}
    assert found.keys() == {(preset, str(index)) for preset in PRESETS for index in range(QUESTIONS)}
    for completion in found.values():
        assert completion.frames == FRAMES
        assert completion.tokens_after == tangovlm.budget.count(retention, completion.tokens_before)
        assert completion.times_ms["prefill"] > 0


def test_a_killed_run_goes_on(runs: Mapping[str, Any]) -> None:
    assert runs["killed"]["status"] == -9
    assert runs["resumed"]["status"] == 0, runs["resumed"]["err"]
    directory = run_dir(runs["work"] / "killed", 0.2)
    lines = [json.loads(line) for line in (directory.records / f"{FRAMES}frame" / "records-0.jsonl").open()]
    keys = [line["key"] for line in lines if "key" in line]
    assert len(keys) == len(set(keys)) == 2 * QUESTIONS
    for preset in PRESETS[:2]:
        alone = [score.prediction for score in scores(runs["work"], 0.2, preset)]
        assert [score.prediction for score in directory.scores(preset) or ()] == alone


@pytest.mark.parametrize("name", ["one", "checkout"])
def test_a_limit_takes_the_first_questions(runs: Mapping[str, Any], name: str) -> None:
    assert runs[name]["status"] == 0, runs[name]["err"]
    (score,) = scores(runs["work"] / name, 0.2, PRESETS[1])
    assert score == scores(runs["work"], 0.2, PRESETS[1])[0]


def test_results_as_json(runs: Mapping[str, Any]) -> None:
    shown = json.loads(runs["one"]["out"].splitlines()[-1])
    (score,) = scores(runs["work"] / "one", 0.2, PRESETS[1])
    assert shown == {
        "directory": str(run_dir(runs["work"] / "one", 0.2).path),
        "rows": [{"data": PRESETS[1], "questions": 1, "accuracy": score.score}],
    }


def test_qwen_is_asked_in_the_order_of_vlmevalkit(runs: Mapping[str, Any], data: Path, qwen: Path) -> None:
    """Without evaluation, as requested from `run.py`."""
    assert runs["qwen"]["status"] == 0, runs["qwen"]["err"]
    directory = RunDirectory(runs["work"] / "qwen", asked_of(qwen))
    assert directory.scores(PRESETS[1]) is None
    said = {record.doc: record.completion for record in read(directory.records / f"{FRAMES}frame").records.values()}
    answerer = Answerer(asked_of(qwen))
    for score in scores(runs["work"], 1.0, PRESETS[1])[:2]:
        video = data / "MVBench_MP4" / DATA_SETS["MVBench_MP4"].video(score.row)
        before, behind = prompt("MVBench_MP4", score).split("Question: ")
        parts = [
            {"type": "text", "text": before},
            {"type": "video", "video": video},
            {"type": "text", "text": f"Question: {behind}"},
        ]
        request = Request(
            conversation=[{"role": "user", "content": parts}], options=GenerationOptions(max_new_tokens=4)
        )
        (completion,) = answerer.answer([request])
        found = said[score.index]
        assert (found.text, found.prompt_tokens, found.tokens_after) == (
            completion.text,
            completion.prompt_tokens,
            completion.tokens_after,
        )
        assert found.tokens_after < found.tokens_before


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("again", ["has results already", "--reuse"]),
        ("other", ["other settings (positions is None there, and 'contiguous' here)", "another --work-dir"]),
        ("limited", ["other settings (limit is None there, and 1 here)"]),
        (
            "missing",
            ["the data set Video-MME is missing", "Video-MME.tsv", "hf download --repo-type dataset lmms-lab/"],
        ),
        ("unknown", ["--data Video-Meme_8frame is no preset", "Video-MME_32frame"]),
        ("open", ["--data MLVU_8frame", "MLVU_MCQ_8frame"]),
    ],
)
def test_refused_in_one_line(runs: Mapping[str, Any], name: str, words: list[str]) -> None:
    assert runs[name]["status"] == 2
    last = runs[name]["err"].splitlines()[-1]
    assert last.startswith("tangovlm: ")
    assert all(word in last for word in words), last


@pytest.fixture(scope="module")
def shared(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work directory of a run by two processes."""
    work = tmp_path_factory.mktemp("shared")
    words = command_line(Settings("tangovlm-tiny", retention=0.2), PRESETS[:1], work, processes=2, data_dir=data)
    assert words[0] == "torchrun"
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *words[1:]],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return work


def test_two_processes_share_the_questions(runs: Mapping[str, Any], shared: Path) -> None:
    directory = run_dir(shared, 0.2)
    files = sorted((directory.records / f"{FRAMES}frame").glob("*.jsonl"))
    asked_of = [[line["doc"] for line in map(json.loads, file.open()) if "doc" in line] for file in files]
    assert asked_of == [["0", "2"], ["1", "3"]]
    assert directory.scores(PRESETS[0]) == scores(runs["work"], 0.2, PRESETS[0])
