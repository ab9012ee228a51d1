"""VLMEvalKit, with which the paper measures: one process a row over all its data presets."""

import math
import os
import sys
from pathlib import Path

from tangovlm.errors import InputError

from ...harness.vlmevalkit import launcher as vlmevalkit
from ...harness.vlmevalkit import miniature as vlmevalkit_miniature
from ...harness.vlmevalkit.results import RunDir, Score
from ..benchmarks import Benchmark
from ..times import of_records
from .answers import Answer, Results
from .base import Command, Work, hub_folder, version

_CATEGORIES = ("task_type", "question_category", "task_category")
"""Columns that hold the category of a question, in one data set or another."""
_ROOT = "LMUData"
"""The variable that names VLMEvalKit's own folder of data sets, and what it is called by default."""
_ABOUT_A_CLIP = 3
"""Questions of a miniature data set."""


class VLMEvalKit:
    """See `Harness`."""

    name = "vlmevalkit"
    distribution = vlmevalkit.DISTRIBUTION

    def command(self, work: Work) -> Command:
        """See `Harness.command`."""
        plan, row = work.plan, work.step.row
        presets = [_preset(each, row.frames) for each in plan.benchmarks]
        settings = row.settings(plan.shape)
        words = vlmevalkit.command(settings, presets, work.folder, plan.limit, plan.gpus, work.data)
        # The interpreter that runs this one, whatever the path finds.
        start = {"tangovlm": ["-m", "tangovlm"], "torchrun": ["-m", "torch.distributed.run"]}[words[0]]
        return Command([sys.executable, *start, *words[1:]])

    def collect(self, work: Work) -> Results:
        """See `Harness.collect`."""
        directory = RunDir(work.folder, work.step.row.settings(work.plan.shape))
        answers: list[Answer] = []
        for benchmark in work.plan.benchmarks:
            preset = _preset(benchmark, work.step.row.frames)
            scores = directory.scores(preset)
            if scores is None:
                raise InputError(f"{directory.path} has no scores of {preset}: remove {work.folder} and run it again")
            answers += (_answer(benchmark, score) for score in scores)
        return Results(tuple(answers), {}, f"{self.name} {version(self)}", of_records(directory.records))

    def miniature(self, folder: Path, questions: int) -> None:
        """See `Harness.miniature`."""
        vlmevalkit_miniature.write(folder, clips=math.ceil(questions / _ABOUT_A_CLIP), questions=_ABOUT_A_CLIP)

    def missing(self, benchmarks: tuple[Benchmark, ...]) -> list[str]:
        """See `Harness.missing`; VLMEvalKit has a folder of its own too."""
        root = Path(os.environ.get(_ROOT, f"~/{_ROOT}")).expanduser()
        return [
            f"{each.title}: neither {own} nor {folder}; get it with `hf download --repo-type dataset {each.repository}`"
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
