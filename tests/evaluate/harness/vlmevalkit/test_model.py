"""Requests that are built from VLMEvalKit's messages."""

import pytest

from tangovlm import registry
from tangovlm.errors import InputError
from tangovlm.evaluate.harness.requests import GenerationOptions
from tangovlm.evaluate.harness.vlmevalkit.model import VIDEO_FIRST, build_request, merge_parts


def test_families_with_the_video_first_are_known() -> None:
    assert set(VIDEO_FIRST) <= {family.name for family in registry.families().values()}


def test_images_are_refused() -> None:
    with pytest.raises(InputError, match=r"image a\.png: only data sets of videos"):
        merge_parts([{"type": "image", "value": "a.png"}])


def test_all_text_of_a_llava_follows_the_video() -> None:
    message = [
        {"type": "text", "value": "Watch. "},
        {"type": "video", "value": "a.mp4"},
        {"type": "text", "value": "Who?"},
    ]
    request = build_request(merge_parts(message), "llava-onevision", GenerationOptions(max_new_tokens=3))
    assert (request.text, request.videos, request.options.max_new_tokens) == ("Watch. Who?", ("a.mp4",), 3)
