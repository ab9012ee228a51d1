"""Small data sets in the record formats of the four benchmarks, about clips of the embedded model's world.

The questions are the first ones of the benchmark `tangoworld` about short clips, and the clips are written as video
files, so that the harnesses can be run end to end where neither data sets nor weights are available.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tangovlm.errors import InputError
from tangovlm.methods.common.checks import is_integer
from tangovlm.tiny.clip import write_clip
from tangovlm.tiny.synthetic.world import SECONDS_A_MOMENT

from ..tangoworld import NAME, draw_clip, load_questions

LETTERS = "ABCDE"
LENGTHS = (8, 16)
"""Lengths of the clips in moments."""
_DURATIONS = {8: "short", 16: "medium", 32: "long", 64: "long"}
_ABSENT = "N/A"


@dataclass(frozen=True)
class Item:
    """One question.

    Parameters
    ----------
    number: in the benchmark `tangoworld`.
    clip: name of its clip, which is the file name without extension.
    cell, draw: of the clip, see `tangoworld.draw_clip`.
    kind: one of `tiny.synthetic.questions.KINDS`.
    length: of the clip in moments.
    text: the question.
    choices: four possible answers in words.
    answer: the correct one.
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
        """The letter of the correct choice."""
        return LETTERS[self.choices.index(self.answer)]

    @property
    def seconds(self) -> float:
        """Duration of the clip."""
        return self.length * SECONDS_A_MOMENT

    def letter_of(self, reply: str) -> str | None:
        """The letter of the choice that a reply in words names; None if it names none."""
        words = reply.strip().lower().rstrip(".")
        return LETTERS[self.choices.index(words)] if words in self.choices else None


def items(limit: int = 20, lengths: Sequence[int] = LENGTHS) -> list[Item]:
    """The first `limit` questions about clips of these lengths, grouped by clip.

    Raises
    ------
    InputError: a limit below one.

    Example
    -------
    >>> [(item.clip, item.kind, item.answer) for item in items(2)]
    [('tangoworld-0-0', 'color', 'pink'), ('tangoworld-1-0', 'shape', 'diamond')]
    """
    if not is_integer(limit) or limit < 1:
        raise InputError(f"limit is {limit!r}: give a whole number from 1")
    return [
        Item(
            each.number,
            f"{NAME}-{clip.cell}-{clip.draw}",
            clip.cell,
            clip.draw,
            each.question.kind,
            clip.length,
            each.question.text,
            each.question.choices,
            each.question.answer,
        )
        for clip in load_questions(limit, lengths=lengths)
        for each in clip.questions
    ]


def write_videos(questions: Iterable[Item], folder: Path) -> dict[str, Path]:
    """Write each clip as ``CLIP.mp4`` unless the file exists; returns the files by name of the clip."""
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, Path] = {}
    for item in questions:
        path = files.setdefault(item.clip, folder / f"{item.clip}.mp4")
        if not path.exists():
            partial = path.with_name(f".{path.name}").with_suffix(".part.mp4")
            write_clip(draw_clip(item.cell, item.draw), partial)
            partial.replace(path)
    return files


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
    """A record as in longvideobench/LongVideoBench, split validation; the fifth option is absent."""
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
        **{f"option{number}": (*item.choices, _ABSENT)[number] for number in range(5)},
    }


MLVU_TASKS = ("anomaly_reco", "count", "ego", "needle", "order", "plotQA", "topic_reasoning")


def mlvu(item: Item) -> dict[str, Any]:
    """A record as in sy1998/MLVU_dev, where the question contains its options; the task types alternate."""
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
"""Benchmark to the function that formats a question as its record."""


def write_records(questions: Iterable[Item], benchmark: str, path: Path) -> Path:
    """Write the records of a benchmark as JSON lines, in the order of the questions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(FORMATS[benchmark](item)) for item in questions]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path
