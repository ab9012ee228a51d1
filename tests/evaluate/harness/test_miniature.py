"""The miniature data sets: records in the formats of the benchmarks, about clips that the embedded model can read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tangovlm.errors import InputError
from tangovlm.evaluate.harness.miniature import FORMATS, LETTERS, items, write_records, write_videos
from tangovlm.evaluate.tangoworld import load_questions, render_clip
from tangovlm.tiny.synthetic.questions import KINDS
from tangovlm.video import decode

FIELDS = {
    "videomme": {"videoID", "question", "options", "answer", "duration", "domain", "sub_category", "task_type"},
    "mvbench": {"video", "question", "candidates", "answer"},
    "longvideobench": {"video_path", "option0", "option1", "option2", "option3", "option4", "correct_choice", "id"},
    "mlvu": {"video_name", "question", "answer", "task_type"},
}


def test_questions_are_the_first_of_the_benchmark() -> None:
    found = items(26)
    assert len(found) == 26 and {item.kind for item in found} == set(KINDS)
    numbers = {asked.number: asked.question for case in load_questions(26, lengths=(8, 16)) for asked in case.questions}
    assert {item.number: (item.text, item.answer) for item in found} == {
        number: (question.text, question.answer) for number, question in numbers.items()
    }
    assert len({item.clip for item in found}) < len(found)


@pytest.mark.parametrize("limit", [0, -1, 1.5, True])
def test_a_limit_is_a_number_of_questions(limit: int) -> None:
    with pytest.raises(InputError, match="limit is"):
        items(limit)


@pytest.mark.parametrize("benchmark", FORMATS)
def test_records_have_the_fields_and_the_true_answer(benchmark: str, tmp_path: Path) -> None:
    found = items(9)
    lines = write_records(found, benchmark, tmp_path / "data" / "records.jsonl").read_text().splitlines()
    for item, record in zip(found, map(json.loads, lines), strict=True):
        assert FIELDS[benchmark] <= record.keys() and item.text in record["question"]
        choices = {
            "videomme": lambda row: {option[0]: option[3:] for option in row["options"]},
            "mvbench": lambda row: {row["answer"]: row["answer"]},
            "longvideobench": lambda row: {row["correct_choice"]: row[f"option{row['correct_choice']}"]},
            "mlvu": lambda row: {line[1]: line[4:] for line in row["question"].split("\n")[1:]},
        }[benchmark](record)
        assert choices[record.get("answer", record.get("correct_choice"))] == item.answer


def test_replies_in_words_have_letters() -> None:
    item = items(1)[0]
    assert item.letter_of(f" {item.answer.upper()}.") == item.letter
    assert item.letter_of("none of them") is None
    assert [item.letter_of(choice) for choice in item.choices] == list(LETTERS[:4])


def test_files_show_what_the_benchmark_shows(tmp_path: Path) -> None:
    found = items(2)
    written = write_videos(found, tmp_path)
    stamp = written[found[0].clip].stat().st_mtime_ns
    assert write_videos(found, tmp_path) == written
    assert written[found[0].clip].stat().st_mtime_ns == stamp
    (case, *_rest) = load_questions(1, lengths=(8, 16))
    shown = render_clip(case.clip(), 8)
    read = decode(written[found[0].clip], 8, size=shown.pixels.shape[-2:])
    assert len(read.pixels) == 8
    # Between its ends a file has frames at other moments.
    difference = (read.pixels[[0, -1]].float() - shown.pixels[[0, -1]].float()).abs()
    assert difference.mean() < 4.5
