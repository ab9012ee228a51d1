"""Miniature data sets as files that VLMEvalKit's classes read; see `harness.miniature`.

The columns are those that VLMEvalKit writes when it converts the records of a downloaded data set.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...tangoworld import OFFICIAL
from .. import miniature
from ..miniature import LETTERS, Item, items


def write(folder: Path, clips: int = 2, questions: int = 3) -> None:
    """Write all four data sets, each about the same clips.

    Parameters
    ----------
    folder: a directory for `--data-dir` or `LMUDataRoot()`.
    clips: number of clips.
    questions: maximum number of questions per clip.

    Example
    -------
    >>> write(Path("miniature"), clips=1)  # doctest: +SKIP
    """
    by_clip: dict[str, list[Item]] = {}
    for item in items(OFFICIAL.size):
        by_clip.setdefault(item.clip, []).append(item)
    chosen = [item for of_clip in list(by_clip.values())[:clips] for item in of_clip[:questions]]
    for name, (videos, row) in _DATA_SETS.items():
        miniature.write_videos(chosen, folder / name / videos)
        rows = [{**row(item), "index": index} for index, item in enumerate(chosen)]
        _write_table(folder / name / f"{name}.tsv", rows)


def _video_mme(item: Item) -> dict[str, Any]:
    record = miniature.videomme(item)
    kept = ("duration", "domain", "sub_category", "task_type", "answer")
    return {
        "video": item.clip,
        "video_path": f"./video/{item.clip}.mp4",
        "candidates": record["options"],
        "subtitle_path": f"./subtitle/{item.clip}.srt",
        "question": _with_options(item),
        **{name: record[name] for name in kept},
    }


def _mvbench(item: Item) -> dict[str, Any]:
    return {"task_type": "Object Existence", "prefix": "video/world", **miniature.mvbench(item)}


def _longvideobench(item: Item) -> dict[str, Any]:
    own = {"video": item.clip, "video_path": f"./videos/{item.clip}.mp4", "question": _with_options(item)}
    return {**miniature.longvideobench(item), **own}


def _mlvu(item: Item) -> dict[str, Any]:
    return {
        "task_type": "plotQA",
        "prefix": "./MLVU/video/1_plotQA",
        "duration": item.seconds,
        "video": f"{item.clip}.mp4",
        "question": item.text,
        "answer": item.answer,
        "candidates": list(item.choices),
    }


_DATA_SETS: Mapping[str, tuple[str, Callable[[Item], dict[str, Any]]]] = {
    "Video-MME": ("video", _video_mme),
    "MVBench_MP4": ("video/world", _mvbench),
    "LongVideoBench": ("videos", _longvideobench),
    "MLVU_MCQ": ("MLVU/video/1_plotQA", _mlvu),
}
"""Data set to the directory of its videos and the function that formats a question as a table row."""


def _with_options(item: Item) -> str:
    """The question and its options; VLMEvalKit matches an answer in words with the options in these lines."""
    options = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, item.choices, strict=False)]
    return "\n".join([item.text, *options])


def _write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), delimiter="\t")
        table.writeheader()
        table.writerows(rows)
