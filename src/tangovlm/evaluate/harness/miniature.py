"""Small data sets in the record formats of the four benchmarks, about clips of the embedded model's world.

Questions are the first ones of the benchmark `tangoworld` about short clips; the clips are written as video files. So
the harnesses themselves can be run from end to end where neither data sets nor weights can be had.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tangovlm.errors import InputError
from tangovlm.evaluate.task import NAME, cases, draw_clip
from tangovlm.methods.common.checks import is_integer
from tangovlm.tiny.clip import SECONDS_A_MOMENT, write_clip

LETTERS = "ABCDE"
LENGTHS = (8, 16)
"""Moments of the clips that are taken."""
_DURATIONS = {8: "short", 16: "medium", 32: "long", 64: "long"}
_ABSENT = "N/A"


@dataclass(frozen=True)
class Item:
    """One question.

    Parameters
    ----------
    number: in the benchmark `tangoworld`.
    clip: name of its clip, that of the file without its ending.
    cell, draw: of the clip, see `task.draw_clip`.
    kind: one of `tiny.synthetic.questions.KINDS`.
    length: moments of the clip.
    text: what is asked.
    choices: four possible answers in words.
    answer: the true one.
    """

    number: int
    clip: str
    cell: int
    draw: int
    kind: str
    length: int
    text: str
    choices: tuple[str, ...]
    answer: str

    @property
    def letter(self) -> str:
        """The letter of the true choice."""
        return LETTERS[self.choices.index(self.answer)]

    @property
    def seconds(self) -> float:
        """How long the clip lasts."""
        return self.length * SECONDS_A_MOMENT

    def letter_of(self, reply: str) -> str | None:
        """The letter of the choice that a reply in words names; None where it names none."""
        words = reply.strip().lower().rstrip(".")
        return LETTERS[self.choices.index(words)] if words in self.choices else None


def items(limit: int = 20, lengths: Sequence[int] = LENGTHS) -> list[Item]:
    """The first so many questions about clips of these lengths, gathered by clip.

    Raises
    ------
    InputError: a limit below one.

    Example
    -------
    >>> [(item.clip, item.kind, item.answer) for item in items(2)]
    [('tangoworld-0-0', 'color', 'pink'), ('tangoworld-1-0', 'color', 'green')]
    """
    if not is_integer(limit) or limit < 1:
        raise InputError(f"limit is {limit!r}: give a whole number from 1")
    return [
        Item(
            asked.number,
            f"{NAME}-{case.cell}-{case.draw}",
            case.cell,
            case.draw,
            asked.question.kind,
            case.length,
            asked.question.text,
            asked.question.choices,
            asked.question.answer,
        )
        for case in cases(limit, lengths=lengths)
        for asked in case.asked
    ]


def write_videos(found: Iterable[Item], folder: Path) -> dict[str, Path]:
    """Write each clip as ``CLIP.mp4`` unless it is there; returns them by name."""
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, Path] = {}
    for item in found:
        path = written.setdefault(item.clip, folder / f"{item.clip}.mp4")
        if not path.exists():
            unfinished = path.with_name(f".{path.name}")
            write_clip(draw_clip(item.cell, item.draw), unfinished.with_suffix(".part.mp4"))
            unfinished.with_suffix(".part.mp4").replace(path)
    return written


# --- records ----------------------------------------------------------------------------------------------------------


def videomme(item: Item) -> dict[str, Any]:
    """A record as in lmms-eval/Video-MME."""
    return {
        "video_id": item.clip,
        "duration": _DURATIONS[item.length],
        "domain": "Knowledge",
        "sub_category": "Technology",
        "url": "",
        "videoID": item.clip,
        "question_id": f"{item.clip}-{item.number}",
        "task_type": "Object Recognition",
        "question": item.text,
        "options": [f"{letter}. {choice}" for letter, choice in zip(LETTERS, item.choices, strict=False)],
        "answer": item.letter,
    }


def mvbench(item: Item) -> dict[str, Any]:
    """A record as in OpenGVLab/MVBench."""
    return {
        "video": f"{item.clip}.mp4",
        "question": item.text,
        "candidates": list(item.choices),
        "answer": item.answer,
    }


def longvideobench(item: Item) -> dict[str, Any]:
    """A record as in longvideobench/LongVideoBench, split validation; a fifth option there is not."""
    return {
        "video_id": item.clip,
        "question": item.text,
        "question_wo_referring_query": item.text,
        "candidates": list(item.choices),
        "correct_choice": item.choices.index(item.answer),
        "position": [0],
        "topic_category": "KS-Knowledge-STEM",
        "question_category": "S2E",
        "level": "L1-Perception",
        "id": f"{item.clip}_{item.number}",
        "video_path": f"{item.clip}.mp4",
        "subtitle_path": f"{item.clip}_en.json",
        "duration_group": 15,
        "starting_timestamp_for_subtitles": 0.0,
        "duration": item.seconds,
        "view_count": 0,
        **{f"option{place}": (*item.choices, _ABSENT)[place] for place in range(5)},
    }


MLVU_TASKS = ("anomaly_reco", "count", "ego", "needle", "order", "plotQA", "topic_reasoning")


def mlvu(item: Item) -> dict[str, Any]:
    """A record as in sy1998/MLVU_dev, whose question holds its options; task types take turns."""
    options = [f"({letter}) {choice}" for letter, choice in zip(LETTERS, item.choices, strict=False)]
    return {
        "video_name": f"{item.clip}.mp4",
        "duration": item.seconds,
        "question": "\n".join([item.text, *options]),
        "answer": item.letter,
        "task_type": MLVU_TASKS[item.number % len(MLVU_TASKS)],
    }


FORMATS: Mapping[str, Callable[[Item], dict[str, Any]]] = {
    "videomme": videomme,
    "mvbench": mvbench,
    "longvideobench": longvideobench,
    "mlvu": mlvu,
}
"""Benchmark to what makes its record of a question."""


def write_records(found: Iterable[Item], benchmark: str, path: Path) -> Path:
    """Write the records of a benchmark as JSON lines, in the order of the questions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(FORMATS[benchmark](item)) for item in found]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path
