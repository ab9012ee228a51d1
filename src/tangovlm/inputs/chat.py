"""Conversations with videos: validation, and rendering with a checkpoint's chat template."""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from ..errors import InputError, ModelError

# A template is a small program; these are the errors that its expressions can raise.
_TEMPLATE_ERRORS = (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError)


def conversations(given: Any) -> tuple[list[list[Mapping[str, Any]]], bool]:
    """Normalise one or several conversations to lists of turns; also return whether several were given.

    Parameters
    ----------
    given: turns ``{"role": ..., "content": text or parts}``, or a list of such lists. Parts are
        ``{"type": "text", "text": ...}`` and ``{"type": "video", ...}``.

    Raises
    ------
    InputError: anything else, including images.
    """
    several = _is_list(given) and len(given) > 0 and all(map(_is_list, given))
    result = [list(turns) for turns in given] if several else [list(given) if _is_list(given) else []]
    for turns in result:
        if not turns or not all(isinstance(turn, Mapping) for turn in turns):
            raise InputError('a conversation is a list of turns such as {"role": "user", "content": "What happens?"}')
        for turn in turns:
            _check_turn(turn)
    return result, several


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _check_turn(turn: Mapping[str, Any]) -> None:
    role: Any = turn.get("role")
    content: Any = turn.get("content")
    if not isinstance(role, str) or not (isinstance(content, str) or _is_list(content)):
        raise InputError("a turn needs a role, and a content that is text or a list of parts")
    for part in () if isinstance(content, str) else content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in ("text", "video"):
            found = f"type {kind!r}" if isinstance(part, Mapping) else type(part).__name__
            raise InputError(
                f'a part of a content is of {found}: this processor accepts the types "text" and "video" only, for '
                "images use the one of transformers"
            )
        if kind == "text" and not isinstance(part.get("text"), str):
            raise InputError('a part of type "text" has no text: give {"type": "text", "text": "What happens?"}')


def parts(turns: Sequence[Mapping[str, Any]], kind: str) -> list[Mapping[str, Any]]:
    """The parts of a type ("text" or "video") in a conversation, in order."""
    listed = [turn["content"] for turn in turns if not isinstance(turn["content"], str)]
    return [part for content in listed for part in content if part["type"] == kind]


def render(
    tokenizer: Any, template: str | None, turns: Sequence[Mapping[str, Any]], video_token: str, **options: Any
) -> str:
    """Render a conversation as text, with a video token for each video.

    Templates of text models accept text only: for these each content is converted to text with video tokens.

    Parameters
    ----------
    template: None for the tokenizer's own.
    options: further arguments of the tokenizer's `apply_chat_template`.

    Raises
    ------
    ModelError: the template is invalid, or accepts the conversation in neither form.
    """
    options |= {"chat_template": template, "tokenize": False}
    reason = "it leaves out videos"
    for form in (turns, [{**turn, "content": _as_text(turn["content"], video_token)} for turn in turns]):
        contents = [turn["content"] for turn in form]
        videos = len(parts(form, "video")) + sum(_as_text(text, "").count(video_token) for text in contents)
        try:
            rendered: str = tokenizer.apply_chat_template(list(form), **options)
        except _TEMPLATE_ERRORS as error:
            reason = f"{type(error).__name__}: {error}"
            continue
        # A template for text may also print the list in Python syntax, or omit it.
        printed = any(_is_list(content) and str(content) in rendered for content in contents)
        if rendered.count(video_token) == videos and not printed:
            return rendered
    raise ModelError(
        f"the checkpoint's chat template does not accept this conversation ({reason}): fetch the checkpoint again"
    )


def _as_text(content: Any, video_token: str) -> str:
    if isinstance(content, str):
        return content
    return "".join(part["text"] if part["type"] == "text" else f"{video_token}\n" for part in content)
