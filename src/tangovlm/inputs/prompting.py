"""From a question about a video to a prompt."""

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from ..errors import InputError
from .chat import render

EMPTY_ANSWER = "the answer is empty: the model generated no text"
"""Note of an answer without text."""


def check_question(question: str) -> None:
    """Raise `InputError` for an empty question, or one that is not valid text."""
    if not isinstance(question, str):
        raise InputError(f"the question is {type(question).__name__}, not text: ask something about the video")
    if not question.strip():
        raise InputError("the question is empty: ask something about the video")
    _check_encodable(question, "the question")


def check_questions(questions: Any) -> list[str]:
    """Several questions as a list.

    Raises
    ------
    InputError: not a list, a tuple or another iterable with an order; or see `check_question`.
    """
    if isinstance(questions, (str, bytes, Mapping, Set)) or not isinstance(questions, Iterable):
        raise InputError(f"the questions are {type(questions).__name__}: give a list of texts")
    found = list(questions)
    for question in found:
        check_question(question)
    return found


def check_history(history: Any) -> list[tuple[str, str]]:
    """Earlier questions and answers as pairs; an answer may be empty.

    Raises
    ------
    InputError: anything else.
    """
    turns = list(history) if isinstance(history, (list, tuple)) else [history]
    for turn in turns:
        if not (isinstance(turn, (list, tuple)) and len(turn) == 2 and isinstance(turn[1], str)):
            raise InputError(
                'the history is not a list of questions with their answers: give [("Where?", "Here."), ...]'
            )
        check_question(turn[0])
        if turn[1]:
            _check_encodable(turn[1], "an answer of the history")
    return [(asked, said) for asked, said in turns]


def _check_encodable(text: str, name: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{name} has bytes that are not UTF-8: type it again") from error


def chat_prompt(
    tokenizer: Any,
    template: str | None,
    question: str,
    video_token: str,
    reserved: Sequence[str] = (),
    history: Sequence[tuple[str, str]] = (),
) -> str:
    """Render the question as a chat turn after one video placeholder.

    Parameters
    ----------
    template: the processor's chat template; None for the tokenizer's own.
    reserved: other placeholders that a question must not contain.
    history: earlier questions about the video with their answers, in order; the placeholder is in the first one.

    Raises
    ------
    InputError: see `check_question` and `check_history`; a text that contains a placeholder; or a history without a
        chat template.
    ModelError: see `chat.render`.
    """
    check_question(question)
    history = check_history(history)
    texts = [text for turn in history for text in turn]
    for token in (video_token, *reserved):
        if token in question:
            raise InputError(f"the question has {token!r}, which stands for visual tokens: leave it out")
        if any(token in text for text in texts):
            raise InputError(f"the history has {token!r}, which stands for visual tokens: leave it out")
    if template is None and getattr(tokenizer, "chat_template", None) is None:
        if history:
            raise InputError("the checkpoint has no chat template, which a history needs: leave the history out")
        return f"{video_token}\n{question}\n"
    turns: list[dict[str, Any]] = []
    for asked, said in history:
        turns += [_turn("user", asked), _turn("assistant", said)]
    turns.append(_turn("user", question))
    turns[0]["content"].insert(0, {"type": "video"})
    return render(tokenizer, template, turns, video_token, add_generation_prompt=True)


def _turn(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}]}
