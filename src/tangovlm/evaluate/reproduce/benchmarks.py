"""The paper's four benchmarks: their names in both harnesses and their numbers of questions."""

from collections.abc import Sequence
from dataclasses import dataclass

from tangovlm.errors import InputError


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Parameters
    ----------
    name: on the command line.
    title: for the reader.
    questions: number of questions.
    lmms_task: task or group of tasks in lmms-eval.
    dataset: data set in VLMEvalKit, without the number of frames.
    lmms_repository, repository: data set on the Hugging Face hub that lmms-eval and VLMEvalKit download.
    by_category: whether the score is the mean of the accuracies of its categories.
    groups: groups of questions that are also reported separately, by their names in the records.
    """

    name: str
    title: str
    questions: int
    lmms_task: str
    dataset: str
    lmms_repository: str
    repository: str
    by_category: bool = False
    groups: tuple[str, ...] = ()


BENCHMARKS = {
    each.name: each
    for each in (
        Benchmark(
            "mvbench",
            "MVBench",
            4000,
            "mvbench",
            "MVBench_MP4",
            "OpenGVLab/MVBench",
            "OpenGVLab/MVBench",
            by_category=True,
        ),
        Benchmark(
            "longvideobench",
            "LongVideoBench (val)",
            1337,
            "longvideobench_val_v",
            "LongVideoBench",
            "longvideobench/LongVideoBench",
            "longvideobench/LongVideoBench",
        ),
        Benchmark(
            "mlvu",
            "MLVU (dev)",
            2174,
            "mlvu_dev",
            "MLVU_MCQ",
            "sy1998/MLVU_dev",
            "MLVU/MVLU",
            by_category=True,
        ),
        Benchmark(
            "videomme",
            "Video-MME (no subtitles)",
            2700,
            "videomme",
            "Video-MME",
            "lmms-eval/Video-MME",
            "lmms-lab/Video-MME",
            groups=("short", "medium", "long"),
        ),
    )
}
"""In the order of the paper's columns."""


def chosen(names: Sequence[str]) -> tuple[Benchmark, ...]:
    """Benchmarks by name in the order of `BENCHMARKS`; all of them if no names are given.

    Raises
    ------
    InputError: an unknown benchmark.
    """
    for name in names:
        if name not in BENCHMARKS:
            raise InputError(f"--benchmarks has {name!r}: choose from {', '.join(BENCHMARKS)}")
    return tuple(each for name, each in BENCHMARKS.items() if not names or name in names)
