"""lmms-eval: one process per row over all tasks, with the model that this package registers in it."""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tangovlm.errors import InputError

from ...harness.lmms.tasks import PREFIX, write_tasks
from ...harness.miniature import items
from ..benchmarks import Benchmark
from ..times import means_of_records
from .answers import Answer, Results
from .base import Command, RowJob, hub_folder, version

_RECORDS = "records"


class LmmsEval:
    """See `Harness`."""

    name = "lmms-eval"
    distribution = "lmms-eval"

    def command(self, job: RowJob) -> Command:
        """See `Harness.command`."""
        plan = job.plan
        tasks = ",".join(_task(each, job) for each in plan.benchmarks)
        words = [sys.executable, "-m"]
        if plan.gpus > 1:
            words += ["accelerate.commands.launch", f"--num_processes={plan.gpus}", "-m"]
        words += ["lmms_eval", "--model", "tangovlm", "--model_args", _model_args(job), "--tasks", tasks]
        words += ["--batch_size", "1", "--output_path", str(job.folder), "--log_samples"]
        if plan.limit is not None:
            words += ["--limit", str(plan.limit)]
        if job.data is None:
            return Command(words)
        # lmms-eval looks for videos below HF_HOME.
        return Command([*words, "--include_path", str(job.data / "tasks")], {"HF_HOME": str(job.data / "home")})

    def collect(self, job: RowJob) -> Results:
        """See `Harness.collect`."""
        summary = _newest(job.folder, "*_results.json")
        stamp = summary.name.removesuffix("results.json")
        results: dict[str, Any] = _read(summary)["results"]
        answers: list[Answer] = []
        reported: dict[str, float] = {}
        for benchmark in job.plan.benchmarks:
            task = _task(benchmark, job)
            files = sorted(summary.parent.glob(f"{stamp}samples_{task}*.jsonl"))
            if not files:
                raise InputError(
                    f"{summary.parent} has no answers of {task}: remove {job.folder} and run the row again"
                )
            for file in files:
                name = file.name.removeprefix(f"{stamp}samples_").removesuffix(".jsonl")
                answers += (_answer(benchmark.name, name, sample) for sample in _lines(file))
            reported |= _reported(benchmark, task, results)
        measured = means_of_records(job.folder / _RECORDS)
        return Results(tuple(answers), reported, f"{self.name} {version(self)}", measured)

    def miniature(self, folder: Path, questions: int) -> None:
        """See `Harness.miniature`."""
        write_tasks(items(questions), folder)

    def missing(self, benchmarks: tuple[Benchmark, ...]) -> list[str]:
        """See `Harness.missing`."""
        return [
            f"{each.title}: no {folder}; download it with `hf download --repo-type dataset {each.lmms_repository}`"
            for each in benchmarks
            if not (folder := hub_folder(each.lmms_repository)).is_dir()
        ]


def _model_args(job: RowJob) -> str:
    """The model and the method as lmms-eval's `--model_args`."""
    settings = job.step.row.settings(job.plan.shape)
    arguments: dict[str, Any] = {
        "pretrained": settings.pretrained,
        "method": settings.method,
        "retention": settings.retention,
        "frames": settings.frames,
        "saliency": settings.saliency,
        "in_llm": settings.in_llm,
        "max_frame_pixels": settings.max_frame_pixels,
        **settings.params,
        # An interrupted run continues from the answers in these records.
        "records": job.folder / _RECORDS,
    }
    return ",".join(f"{name}={value}" for name, value in arguments.items() if value is not None)


def _task(benchmark: Benchmark, job: RowJob) -> str:
    """The name of a benchmark in lmms-eval."""
    return benchmark.lmms_task if job.data is None else f"{PREFIX}{benchmark.name}"


_METRICS = {
    "videomme": "videomme_perception_score",
    "mvbench": "mvbench_accuracy",
    "longvideobench": "lvb_acc",
    "mlvu": "mlvu_percetion_score",
}
"""The key of the judged answer in lmms-eval's samples, by benchmark; the spelling is lmms-eval's."""


def _answer(benchmark: str, task: str, sample: Mapping[str, Any]) -> Answer:
    """The answer in one line of a file of samples.

    Raises
    ------
    InputError: the line has another format.
    """
    number = str(sample["doc_id"])
    try:
        judged = sample[_METRICS[benchmark]]
        if benchmark == "videomme":
            right, clip = judged["pred_answer"].lower() == judged["answer"].lower(), judged.get("videoID", number)
            return Answer(benchmark, number, str(clip), judged["task_category"], judged["duration"], right)
        if benchmark == "mvbench":
            # The samples do not name the video.
            return Answer(benchmark, f"{task}/{number}", f"{task}/{number}", task, "", bool(judged["score"]))
        if benchmark == "longvideobench":
            clip = str(judged["id"]).rsplit("_", 1)[0]
            right = judged["parsed_pred"] == judged["answer"]
            return Answer(benchmark, str(judged["id"]), clip, judged["question_category"], "", right)
        return Answer(benchmark, number, number, judged["task_type"], "", judged["pred_answer"] == judged["answer"])
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"a sample of {task} in lmms-eval's files has another format than in release 0.7.3 ({error!r})"
        ) from error


def _reported(benchmark: Benchmark, task: str, results: Mapping[str, Any]) -> dict[str, float]:
    """The harness's own score in percent; the mean for a group of tasks."""
    metric = f"{_METRICS[benchmark.name]},none"
    own = [values[metric] for name, values in results.items() if name == task and metric in values]
    own = own or [
        values[metric] for name, values in results.items() if name.startswith(f"{task}_") and metric in values
    ]
    if not own:
        return {}
    value = sum(own) / len(own)
    return {benchmark.name: 100 * value if benchmark.name == "longvideobench" else value}


def _newest(folder: Path, pattern: str) -> Path:
    found = sorted(folder.rglob(pattern), key=lambda path: path.name)
    if not found:
        raise InputError(
            f"{folder} has no {pattern} of lmms-eval, although it exited without an error: see its log.txt"
        )
    return found[-1]


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    except ValueError as error:
        raise InputError(f"{path} is no JSON: remove it and run the row again") from error


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise InputError(f"{path} line {number} is no JSON: remove it and run the row again") from error
