"""Prompts of a question and of a conversation."""

from typing import Any

import pytest

from tangovlm.errors import InputError
from tangovlm.inputs.prompting import chat_prompt, check_history, check_questions

VIDEO = "<video>"


class Templated:
    """A tokenizer whose chat template writes each turn in brackets."""

    chat_template = "of the tokenizer"

    def apply_chat_template(self, turns: Any, **_options: Any) -> str:
        parts = {"video": lambda _: VIDEO, "text": lambda part: part["text"]}
        written = ("".join(parts[part["type"]](part) for part in turn["content"]) for turn in turns)
        return "".join(f"[{turn['role']}: {text}]" for turn, text in zip(turns, written, strict=True))


class Plain:
    """A tokenizer without a chat template."""


def test_a_history_precedes_the_question() -> None:
    history = [("What?", "a heart"), ("Where?", "left")]
    assert chat_prompt(Templated(), None, "Why?", VIDEO) == "[user: <video>Why?]"
    assert chat_prompt(Templated(), None, "Why?", VIDEO, history=history) == (
        "[user: <video>What?][assistant: a heart][user: Where?][assistant: left][user: Why?]"
    )


def test_refused() -> None:
    assert chat_prompt(Plain(), None, "Why?", VIDEO) == "<video>\nWhy?\n"
    with pytest.raises(InputError, match="no chat template"):
        chat_prompt(Plain(), None, "Why?", VIDEO, history=[("What?", "a heart")])
    for turn in (("What?", "a <video>"), ("A <image>?", "a heart")):
        with pytest.raises(InputError, match="the history has"):
            chat_prompt(Templated(), None, "Why?", VIDEO, ["<image>"], history=[turn])
    with pytest.raises(InputError, match="empty"):
        chat_prompt(Templated(), None, "Why?", VIDEO, history=[("", "a heart")])


def test_several_questions() -> None:
    for given in (["What?", "Why?"], ("What?", "Why?"), (text for text in ("What?", "Why?"))):
        assert check_questions(given) == ["What?", "Why?"]
    assert check_questions([]) == []
    for wrong in ("What?", b"What?", {"What?": 1}, {"What?"}, 3, None):
        with pytest.raises(InputError, match="give a list"):
            check_questions(wrong)
    for wrong in (["What?", ""], ["What?", 3], ["\udcff"]):
        with pytest.raises(InputError, match="the question"):
            check_questions(wrong)


def test_histories() -> None:
    assert check_history([["What?", ""], ("Where?", "left")]) == [("What?", ""), ("Where?", "left")]
    assert check_history(()) == []
    turn = ("What?", "a heart")
    wrong = (turn, "ab", "abcd", ["ab"], [{"What?": "a heart"}], [{"q": "What?", "a": "a heart"}], [("What?",)], None)
    for history in (*wrong, [("What?", None)], {turn: turn}, [turn, "ab"]):
        with pytest.raises(InputError, match="list of questions with their answers"):
            check_history(history)
    for answer in ((3, "a heart"), (" ", "a heart"), ("What?", "\udcff")):
        with pytest.raises(InputError):
            check_history([answer])
