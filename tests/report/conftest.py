"""A short clip and what a method may have made of it."""

from dataclasses import replace

import pytest
import torch

import tangovlm
from tangovlm.pipeline.answer import Answer
from tangovlm.report import Exchange, Scene, scene
from tangovlm.session.records import Alternative, CutRecord, VideoRecord
from tangovlm.tokens import VideoReport
from tangovlm.video import Frames

STEPS, ROWS, COLUMNS = 5, 3, 4


@pytest.fixture
def frames() -> Frames:
    pixels = torch.randint(60, 256, (STEPS, 3, 30, 44), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    return Frames(pixels, torch.arange(STEPS, dtype=torch.float64) / 4, fps=4.0, duration_s=1.25)


RETENTIONS = (0.1, 0.2, 0.5)


@pytest.fixture
def record() -> VideoRecord:
    """Tango at 30 % on random tokens of which half the positions stand still, with two cuts inside the model."""
    draw = torch.Generator().manual_seed(2)
    features = torch.randn(STEPS, ROWS, COLUMNS, 16, generator=draw)
    features[:3, :, :2] = features[:1, :, :2]
    saliency = torch.rand(STEPS, ROWS, COLUMNS, generator=draw)
    tokens = tangovlm.VideoTokens(features, saliency=saliency)
    selection = tangovlm.Tango(retention=0.3)(tokens)
    report = VideoReport(STEPS * ROWS * COLUMNS, len(selection.indices), 0.3, "tango", selection.segments)
    others = tuple(Alternative(each, tangovlm.Tango(retention=each)(tokens)) for each in RETENTIONS)
    return VideoRecord(selection, saliency, report, (*others, Alternative(0.01, None, "too <few> tokens")))


def with_cuts(record: VideoRecord) -> VideoRecord:
    """The same with two cuts: every second token, then every second of these and two tokens made from others."""
    first = record.selection.indices[::2]
    return replace(record, cuts=(CutRecord(2, first, 0), CutRecord(3, first[::2], 2)))


@pytest.fixture
def drawn(frames: Frames, record: VideoRecord) -> Scene:
    return scene(frames, record)


def make_answer(text: str, frames: Frames, record: VideoRecord | None, retention: float) -> Answer:
    answer = Answer(text)
    answer.tokens_before, answer.retention, answer.method = STEPS * ROWS * COLUMNS, retention, "tango"
    answer.tokens_after = round(retention * answer.tokens_before)
    answer.segments, answer.notes, answer.model = (3, 2), ("a note", "another & <b>bold</b> note"), "some-model"
    answer.timings_ms = {"decode": 1.0, "encode": 20.0, "prune": 3.0, "prefill": 40.0, "decode_tokens": 5.0}
    answer.frames, answer.video = frames, record
    return answer


@pytest.fixture
def exchange(frames: Frames, record: VideoRecord) -> Exchange:
    answer, everything = make_answer("red", frames, record, 0.3), make_answer("blue", frames, None, 1.0)
    return Exchange("What color is the star?", answer, everything, "red")
