"""Local lmms-eval tasks for the miniature data sets, scored by lmms-eval's own functions for each benchmark.

The videos are linked below HF_HOME, where these functions look for them. The embedded model answers in words and does
not understand options, so its prompt is the question alone, and its answer is scored as the option that it names. Other
models get the prompts of the benchmark.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ..miniature import LETTERS, Item, write_records, write_videos

PREFIX = "tango_"
PROMPTS = ("question", "benchmark")
_UTILS = "from tangovlm.evaluate.harness.lmms.tasks import *  # noqa: F403\n"


@dataclass(frozen=True)
class Benchmark:
    """lmms-eval's names for the parts of a benchmark.

    Parameters
    ----------
    module: module of `lmms_eval.tasks`.
    prefix: prefix of its functions.
    visual: the function that finds the video.
    videos: folder below HF_HOME in which that function looks.
    metric: key of the score.
    aggregation: the function that aggregates the scores.
    options: keyword arguments of the prompts.
    max_new_tokens: of lmms-eval's task.
    """

    module: str
    prefix: str
    visual: str
    videos: str
    metric: str
    aggregation: str
    options: Mapping[str, Any]
    max_new_tokens: int = 16


BENCHMARKS: Mapping[str, Benchmark] = {
    "videomme": Benchmark(
        "videomme.utils",
        "videomme",
        "videomme_doc_to_visual",
        "videomme/data",
        "videomme_perception_score",
        "videomme_aggregate_results",
        {"pre_prompt": "", "post_prompt": "\nAnswer with the option's letter from the given choices directly."},
    ),
    "mvbench": Benchmark(
        "mvbench.utils",
        "mvbench",
        "mvbench_doc_to_visual",
        "mvbench_video/clevrer/video_validation",
        "mvbench_accuracy",
        "mvbench_aggregate_results",
        {"sub_task": "moving_attribute", "post_prompt": "Only give the best option.\n"},
    ),
    "longvideobench": Benchmark(
        "longvideobench.utils",
        "longvideobench",
        "longvideobench_doc_to_visual_v",
        "datasets/longvideobench/videos",
        "lvb_acc",
        "longvideobench_aggregate_results",
        {"pre_prompt": "", "post_prompt": "Answer with the option's letter from the given choices directly.\n"},
        max_new_tokens=32,
    ),
    "mlvu": Benchmark(
        "mlvu.utils",
        "mlvu",
        "mlvu_doc_to_visual_dev",
        "mlvu",
        "mlvu_percetion_score",
        "mlvu_aggregate_results_dev",
        {"pre_prompt": "", "post_prompt": "\nOnly give the best option.\nBest option: ("},
    ),
}


def write_tasks(questions: Sequence[Item], folder: Path, *, prompts: str = "question") -> list[str]:
    """Write a task for each benchmark, and return the names of the tasks.

    Run lmms-eval with ``--include_path FOLDER/tasks`` and HF_HOME set to ``FOLDER/home``.

    Parameters
    ----------
    prompts: "question" for the embedded model, "benchmark" for any other.
    """
    assert prompts in PROMPTS
    clips = write_videos(questions, folder / "clips")
    tasks = folder / "tasks"
    tasks.mkdir(parents=True, exist_ok=True)
    (tasks / "utils.py").write_text(_UTILS, encoding="utf-8")
    for name, benchmark in BENCHMARKS.items():
        records = write_records(questions, name, folder / "records" / f"{name}.jsonl")
        videos = folder / "home" / benchmark.videos
        videos.mkdir(parents=True, exist_ok=True)
        for clip in clips.values():
            link = videos / clip.name
            if not link.exists():
                link.symlink_to(clip.resolve())
        (tasks / f"{PREFIX}{name}.yaml").write_text(_yaml(name, benchmark, records, prompts), encoding="utf-8")
    return [PREFIX + name for name in BENCHMARKS]


def _yaml(name: str, benchmark: Benchmark, records: Path, prompts: str) -> str:
    options = json.dumps({**benchmark.options, "prompts": prompts})
    # JSON is valid YAML; only the tags need YAML syntax.
    return f"""task: {PREFIX}{name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {json.dumps(str(records.resolve()))}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.{name}_visual
doc_to_text: !function utils.{name}_text
doc_to_target: {"correct_choice" if name == "longvideobench" else "answer"}
generation_kwargs:
  max_new_tokens: {benchmark.max_new_tokens}
  temperature: 0
  do_sample: false
process_results: !function utils.{name}_results
metric_list:
  - metric: {benchmark.metric}
    aggregation: !function utils.{name}_aggregate
    higher_is_better: true
lmms_eval_specific_kwargs:
  default: {options}
metadata:
  - version: 0.0
"""


# --- functions that the tasks name ------------------------------------------------------------------------------------


def _lmms_function(name: str, function: str) -> Callable[..., Any]:
    """A function of lmms-eval's task for a benchmark."""
    module = import_module(f"lmms_eval.tasks.{BENCHMARKS[name].module}")
    found: Callable[..., Any] = getattr(module, function)
    return found


def _visual(name: str) -> Callable[..., Any]:
    def visual(doc: Mapping[str, Any], lmms_eval_specific_kwargs: Mapping[str, Any] | None = None) -> Any:
        find = _lmms_function(name, BENCHMARKS[name].visual)
        return find(doc, lmms_eval_specific_kwargs) if name == "mvbench" else find(doc)

    return visual


def _text(name: str) -> Callable[..., str]:
    def text(doc: Mapping[str, Any], lmms_eval_specific_kwargs: Mapping[str, Any]) -> str:
        if lmms_eval_specific_kwargs["prompts"] == "question":
            return str(doc["question"]).split("\n", maxsplit=1)[0]
        return str(_lmms_function(name, f"{name}_doc_to_text")(doc, lmms_eval_specific_kwargs))

    return text


def _results(name: str) -> Callable[..., Any]:
    def results(doc: Mapping[str, Any], replies: Sequence[str]) -> Any:
        (reply,) = replies
        # LongVideoBench scores a random guess for a reply without a letter.
        absent = LETTERS[-1] if name == "longvideobench" and not any(letter in reply for letter in LETTERS) else reply
        choices = _choices(name, doc)
        word = reply.strip().lower().rstrip(".")
        scored = LETTERS[choices.index(word)] if word in choices else absent
        return _lmms_function(name, f"{name}_process_results")(doc, [scored])

    return results


def _choices(name: str, doc: Mapping[str, Any]) -> list[str]:
    """The choices of a record, in words."""
    if name == "videomme":
        return [option.split(". ", maxsplit=1)[1] for option in doc["options"]]
    if name == "mlvu":
        return [line.split(") ", maxsplit=1)[1] for line in str(doc["question"]).split("\n")[1:]]
    return list(doc["candidates"])


def _aggregate(name: str) -> Callable[..., Any]:
    def aggregate(results: Sequence[Any]) -> Any:
        return _lmms_function(name, BENCHMARKS[name].aggregation)(results)

    return aggregate


videomme_visual, mvbench_visual, longvideobench_visual, mlvu_visual = map(_visual, BENCHMARKS)
videomme_text, mvbench_text, longvideobench_text, mlvu_text = map(_text, BENCHMARKS)
videomme_results, mvbench_results, longvideobench_results, mlvu_results = map(_results, BENCHMARKS)
videomme_aggregate, mvbench_aggregate, longvideobench_aggregate, mlvu_aggregate = map(_aggregate, BENCHMARKS)
