"""From a question about a video to a prompt."""

from collections.abc import Sequence
from typing import Any

from ..errors import InputError
from .chat import render


def check_question(question: str) -> None:
    """Raise `InputError` for an empty question, or one that is not valid text."""
    if not isinstance(question, str):
        raise InputError(f"the question is {type(question).__name__}, not text: ask something about the video")
    if not question.strip():
        raise InputError("the question is empty: ask something about the video")
    try:
        question.encode()
    except UnicodeEncodeError as error:
        raise InputError("the question has bytes that are not UTF-8: type it again") from error


def chat_prompt(
    tokenizer: Any, template: str | None, question: str, video_token: str, reserved: Sequence[str] = ()
) -> str:
    """Render the question as a chat turn after one video placeholder.

    Parameters
    ----------
    template: the processor's chat template; None for the tokenizer's own.
    reserved: other placeholders that a question must not contain.

    Raises
    ------
    InputError: see `check_question`; or the question contains a placeholder.
    ModelError: see `chat.render`.
    """
    check_question(question)
    for token in (video_token, *reserved):
        if token in question:
            raise InputError(f"the question has {token!r}, which stands for visual tokens: leave it out")
    if template is None and getattr(tokenizer, "chat_template", None) is None:
        return f"{video_token}\n{question}\n"
    turn = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": question}]}
    return render(tokenizer, template, [turn], video_token, add_generation_prompt=True)
