"""Generation arguments of tasks, and what can be asked."""

from __future__ import annotations

from typing import Any

import pytest

from tangovlm.errors import InputError
from tangovlm.evaluate.harness.requests import GenerationOptions, Request


def test_arguments_of_tasks_are_read() -> None:
    greedy = {"max_new_tokens": 16, "temperature": 0, "top_p": 1.0, "num_beams": 1, "do_sample": False}
    assert GenerationOptions.read(greedy) == GenerationOptions(16)
    assert GenerationOptions.read({"until": "\n", "max_gen_toks": 5}) == GenerationOptions(5, ("\n",))
    assert GenerationOptions.read({"until": ["a", "b"]}) == GenerationOptions(until=("a", "b"))
    assert GenerationOptions.read({"do_sample": True}).temperature == 1.0
    assert GenerationOptions.read({"do_sample": False, "temperature": 0.7}).generate_kwargs["do_sample"] is False
    sampled = GenerationOptions.read({"temperature": 0.7, "top_p": 0.9, "top_k": 5}).generate_kwargs
    assert (sampled["do_sample"], sampled["temperature"], sampled["top_p"], sampled["top_k"]) == (True, 0.7, 0.9, 5)
    assert GenerationOptions.read({"num_beams": 3}).generate_kwargs["num_beams"] == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"image_aspect_ratio": "pad"}, "image_aspect_ratio='pad' is not supported"),
        ({"repetition_penalty": 1.2}, "repetition_penalty=1.2 is not supported"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"num_beams": 0}, "num_beams is 0"),
        ({"temperature": -1}, "temperature is -1"),
        ({"until": [""]}, "until is"),
        ({"until": [3]}, "until is"),
    ],
)
def test_no_argument_is_ignored(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        GenerationOptions.read(given)


def test_a_text_is_cut_at_the_first_end() -> None:
    options = GenerationOptions(until=("\n\n", "Q:"))
    assert options.cut(" A. red Q: what\n\nelse") == "A. red"
    assert options.cut(" A. red\n") == "A. red"
    assert options.cut("\n\nA") == ""


def test_videos_of_a_conversation_are_found_in_order() -> None:
    parts = [{"type": "video", "video": "a.mp4"}, {"type": "text", "text": "?"}, {"type": "video", "video": "b.mp4"}]
    turns = [{"role": "system", "content": "Be short."}, {"role": "user", "content": parts}]
    assert Request(conversation=turns).videos == ("a.mp4", "b.mp4")
    assert Request("Why?", ["a.mp4"]).turns == [
        {"role": "user", "content": [{"type": "video", "video": "a.mp4"}, {"type": "text", "text": "Why?"}]}
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "either a text or a conversation"),
        ({"text": "a", "conversation": []}, "either a text or a conversation"),
        ({"text": " "}, "question is empty"),
        ({"text": "a", "media": [object()]}, "contains object where a video is expected"),
        ({"conversation": [], "media": ["a.mp4"]}, "are parts of it"),
        ({"conversation": [{"role": "user", "content": [{"type": "video"}]}]}, "contains NoneType"),
    ],
)
def test_other_requests_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Request(**given)
