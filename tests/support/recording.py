"""A method that records what it receives."""

from __future__ import annotations

from typing import Any

import tangovlm
from tangovlm.selfcheck.twins.common.base import Twin
from tangovlm.selfcheck.twins.common.norms import Norms
from tangovlm.selfcheck.twins.common.parts import RandomWords, Video
from tangovlm.tokens import Selection, VideoTokens


class Recorder:
    """A method that records the videos that it receives."""

    name, retention, signal = "wants", 0.5, "p-attn"
    needs = frozenset({"saliency", "timestamps"})

    def __init__(self) -> None:
        self.videos: list[VideoTokens] = []

    def __call__(self, tokens: VideoTokens) -> Selection:
        self.videos.append(tokens)
        return Norms(self.retention)(tokens)


def recorded(host: Twin, frames: int, **options: Any) -> tuple[VideoTokens, Any]:
    """The tokens of a video of this length as a method receives them, and the session."""
    inputs, recorder = host.inputs([(RandomWords(3, 1), Video(frames, 2), RandomWords(5, 3))]), Recorder()
    attached = {name: options.pop(name) for name in ("timestamps", "saliency") if name in options}
    with tangovlm.attach(host.model, recorder, **attached) as session:
        host.model.generate(**inputs, **options, max_new_tokens=1, do_sample=False)
    (tokens,) = recorder.videos
    return tokens, session
