"""The embedded model, and a short clip with questions."""

import pytest

from tangovlm.evaluate.tangoworld import ClipQuestions, load_questions
from tangovlm.pipeline.load import VideoLLM, load

KINDS = {"read", "position", "color"}


@pytest.fixture(scope="session")
def llm() -> VideoLLM:
    """Read-only."""
    return load(device="cpu")


@pytest.fixture(scope="session")
def clip() -> ClipQuestions:
    """Its questions have choices of one token and of several."""
    chosen = next(
        clip
        for clip in load_questions()
        if clip.length == 8 and {each.question.kind for each in clip.questions} >= KINDS
    )
    questions = tuple(each for each in chosen.questions if each.question.kind in KINDS)
    return ClipQuestions(chosen.cell, chosen.draw, chosen.digest, questions)
