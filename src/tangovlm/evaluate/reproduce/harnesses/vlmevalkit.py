"""VLMEvalKit, with which the paper measures accuracy: one process per row over all data presets."""

import math
import os
import sys
from pathlib import Path

from tangovlm.errors import InputError

from ...harness.vlmevalkit import miniature
from ...harness.vlmevalkit.command import command_line
from ...harness.vlmevalkit.installation import DISTRIBUTION
from ...harness.vlmevalkit.results import RunDirectory, Score
from ..benchmarks import Benchmark
from ..times import means_of_records
from .answers import Answer, Results
from .base import Command, RowJob, hub_folder, version

_CATEGORIES = ("task_type", "question_category", "task_category")
"""Possible columns with the category of a question; they differ between data sets."""
_ROOT = "LMUData"
"""The environment variable with VLMEvalKit's folder of data sets, and the default name of this folder."""
_QUESTIONS_PER_CLIP = 3
"""In miniature data sets."""


class VLMEvalKit:
    """See `Harness`."""

    name = "vlmevalkit"
    distribution = DISTRIBUTION

    def command(self, job: RowJob) -> Command:
        """See `Harness.command`."""
        plan, row = job.plan, job.step.row
        presets = [_preset(each, row.frames) for each in plan.benchmarks]
        settings = row.settings(plan.shape)
        words = command_line(settings, presets, job.folder, plan.limit, plan.gpus, job.data)
        # The interpreter of this process, not the first one on PATH.
        start = {"tangovlm": ["-m", "tangovlm"], "torchrun": ["-m", "torch.distributed.run"]}[words[0]]
        return Command([sys.executable, *start, *words[1:]])

    def collect(self, job: RowJob) -> Results:
        """See `Harness.collect`."""
        directory = RunDirectory(job.folder, job.step.row.settings(job.plan.shape))
        answers: list[Answer] = []
        for benchmark in job.plan.benchmarks:
            preset = _preset(benchmark, job.step.row.frames)
            scores = directory.scores(preset)
            if scores is None:
                raise InputError(f"{directory.path} has no scores of {preset}: remove {job.folder} and run it again")
            answers += (_answer(benchmark, score) for score in scores)
        return Results(tuple(answers), {}, f"{self.name} {version(self)}", means_of_records(directory.records))

    def miniature(self, folder: Path, questions: int) -> None:
        """See `Harness.miniature`."""
        clips = math.ceil(questions / _QUESTIONS_PER_CLIP)
        miniature.write(folder, clips=clips, questions=_QUESTIONS_PER_CLIP)

    def missing(self, benchmarks: tuple[Benchmark, ...]) -> list[str]:
        """See `Harness.missing`; VLMEvalKit also has a data folder of its own."""
        root = Path(os.environ.get(_ROOT, f"~/{_ROOT}")).expanduser()
        return [
            f"{each.title}: neither {own} nor {folder}; download it with `hf download --repo-type dataset "
            f"{each.repository}`"
            for each in benchmarks
            if not (folder := hub_folder(each.repository)).is_dir()
            and not (own := root / each.dataset / f"{each.dataset}.tsv").is_file()
        ]


def _preset(benchmark: Benchmark, frames: int) -> str:
    return f"{benchmark.dataset}_{frames}frame"


def _answer(benchmark: Benchmark, score: Score) -> Answer:
    row = score.row
    category = next((str(row[name]) for name in _CATEGORIES if name in row), "")
    group = str(row["duration"]) if benchmark.groups else ""
    return Answer(benchmark.name, score.index, str(row["video"]), category, group, score.score == 1)
