"""lmms-eval on the miniature data: answers and scores are those of `ask`, also after a kill and with two processes."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import tangovlm
from tangovlm.evaluate.harness.lmms.tasks import write_tasks
from tangovlm.evaluate.harness.miniature import MLVU_TASKS, Item, items
from tangovlm.evaluate.harness.records import read
from tangovlm.evaluate.harness.settings import Settings
from tangovlm.pipeline.load import load
from tests.harness.lmms_runs import Result, command, environment, needs_lmms_eval, run
from tests.pipeline.test_ask_families import HOSTS, write_checkpoint

pytestmark = [needs_lmms_eval, pytest.mark.filterwarnings("ignore::UserWarning")]

FRAMES = 8
TASKS = ["tango_videomme", "tango_mvbench", "tango_longvideobench", "tango_mlvu"]
PRUNED = {"pretrained": "tangovlm-tiny", "retention": 0.3, "frames": FRAMES}


@pytest.fixture(scope="module")
def asked() -> list[Item]:
    return items(9, lengths=(8,))


@pytest.fixture(scope="module")
def folder(asked: list[Item], tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("miniature")
    assert write_tasks(asked, made) == TASKS
    return made


def ours(asked: Sequence[Item], folder: Path, given: dict[str, Any]) -> list[str]:
    """The answers of `tangovlm.ask`, one by one."""
    llm, settings = load(), Settings.read(**given)
    return [
        str(
            tangovlm.ask(
                folder / "clips" / f"{item.clip}.mp4",
                item.text,
                model=llm,
                method=settings.pruner(),
                frames=settings.frames,
                max_new_tokens=16,
            )
        )
        for item in asked
    ]


def check(result: Result, asked: Sequence[Item], replies: Sequence[str]) -> None:
    """Answers are the same one by one, and so are scores, as each benchmark reckons them."""
    right = [reply == item.answer for item, reply in zip(asked, replies, strict=True)]
    for task in TASKS:
        assert result.replies[task] == list(replies), task
    share = sum(right) / len(right)
    assert result.scores["tango_longvideobench"] == pytest.approx(share, abs=1e-5)
    assert result.scores["tango_videomme"] == pytest.approx(100 * share)
    assert result.scores["tango_mvbench"] == pytest.approx(100 * share)
    # MLVU means over its task types, those without a question included.
    kinds: dict[str, list[bool]] = {kind: [] for kind in MLVU_TASKS}
    for item, good in zip(asked, right, strict=True):
        kinds[MLVU_TASKS[item.number % len(MLVU_TASKS)]].append(good)
    means = [sum(found) / len(found) if found else 0.0 for found in kinds.values()]
    assert result.scores["tango_mlvu"] == pytest.approx(100 * sum(means) / len(means))


def test_unpruned(asked: list[Item], folder: Path, tmp_path: Path) -> None:
    given = PRUNED | {"retention": 1.0}
    replies = ours(asked, folder, given)
    result = run(folder, tmp_path, "tangovlm", given, TASKS)
    check(result, asked, replies)
    assert sum(reply == item.answer for reply, item in zip(replies, asked, strict=True)) >= 7
    figures = result.whole["throughput"]
    assert figures["avg_tokens_before"] == figures["avg_tokens_after"] == 64 * FRAMES
    for stage in ("decode", "encode", "prefill", "decode_tokens"):
        assert figures[f"avg_ms_{stage}"] > 0
    assert figures["avg_peak_memory_mb"] > 1
    # One encoding for all questions about a clip, in all benchmarks.
    clips, questions = len({item.clip for item in asked}), len(TASKS) * len(asked)
    assert figures["avg_encodings_shared"] == pytest.approx(1 - clips / questions)


def test_a_killed_run_goes_on(asked: list[Item], folder: Path, tmp_path: Path) -> None:
    given = PRUNED | {"records": tmp_path / "records"}
    file, total = tmp_path / "records" / "records-0.jsonl", len(TASKS) * len(asked)
    words = [*command(folder, "tangovlm", given, TASKS), "--output_path", str(tmp_path / "killed")]
    with subprocess.Popen(
        words, env=environment(folder), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 600
        while not file.exists() or file.read_bytes().count(b"\n") < 5:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = file.read_bytes()
    kept = kept[: kept.rfind(b"\n") + 1]
    finished = kept.count(b"\n") - 1
    assert 4 <= finished < total
    result = run(folder, tmp_path / "output", "tangovlm", given, TASKS)
    check(result, asked, ours(asked, folder, PRUNED))
    assert file.read_bytes().startswith(kept)
    content = read(tmp_path / "records")
    assert len(content.records) == total
    # Finished questions were not asked again.
    assert file.read_bytes().count(b"\n") == 1 + total
    assert result.whole["throughput"]["avg_latency"] > 0


def test_two_processes_share_the_work(asked: list[Item], folder: Path, tmp_path: Path) -> None:
    given = PRUNED | {"in_llm": "fastv", "retention": 0.6}
    launcher = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    told = given | {"records": tmp_path / "records"}
    result = run(folder, tmp_path / "output", "tangovlm", told, TASKS, launcher=launcher)
    check(result, asked, ours(asked, folder, given))
    written = [
        {line.split(b'"key": ')[1][:34] for line in file.read_bytes().splitlines()[1:]}
        for file in sorted((tmp_path / "records").iterdir())
    ]
    assert [file.name for file in sorted((tmp_path / "records").iterdir())] == ["records-0.jsonl", "records-1.jsonl"]
    assert len(written[0] | written[1]) == len(TASKS) * len(asked) and not written[0] & written[1]
    assert abs(len(written[0]) - len(written[1])) <= len(TASKS)


@pytest.mark.parametrize(
    ("host", "alias"), [("llava_onevision", "tango_llava_onevision"), ("qwen2_5_vl", "tango_qwen2_5_vl")]
)
def test_random_weights_of_the_real_classes(host: str, alias: str, asked: list[Item], tmp_path: Path) -> None:
    write_tasks(asked[:2], tmp_path, prompts="benchmark")
    checkpoint = tmp_path / "checkpoint"
    write_checkpoint(HOSTS[host](), checkpoint)
    given = {"pretrained": checkpoint, "retention": 0.3, "frames": 4}
    result = run(tmp_path, tmp_path / "output", alias, given, TASKS, "--batch_size", "2")
    assert all(len(replies) == 2 for replies in result.replies.values())
    figures = result.whole["throughput"]
    assert figures["avg_tokens_after"] == pytest.approx(0.3 * figures["avg_tokens_before"], abs=1)


def test_a_mistake_is_one_line_and_status_2(folder: Path) -> None:
    words = command(folder, "tangovlm", PRUNED | {"retension": 0.2}, TASKS, "--output_path", str(folder / "none"))
    done = subprocess.run(words, env=environment(folder), cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: retension is no setting")
    assert "Traceback" not in done.stderr + done.stdout
