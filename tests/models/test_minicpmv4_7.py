"""MiniCPM-V 4.7: positions of frames, prompts without numbers."""

from __future__ import annotations

import pytest
import torch

import tangovlm

pytest.importorskip("transformers.models.minicpmv4_7", reason="this release of transformers has no MiniCPM-V 4.7")

from tangovlm.models.minicpmv4_7 import MiniCPMV47
from tangovlm.selfcheck.twins.common.parts import Image, RandomWords, Video
from tangovlm.selfcheck.twins.minicpmv4_7 import MiniCPMV47Twin
from tests.support.prompts import ByteTokenizer

ROW = (RandomWords(3, 1), Video(3, 2), RandomWords(2, 3), Image(4), RandomWords(2, 5), Video(2, 6, wide=True))


def test_the_positions_of_the_reference_are_the_stock_ones() -> None:
    host = MiniCPMV47Twin()
    inputs = host.inputs([ROW])
    stock, _ = host.model.model.get_rope_index(
        inputs["input_ids"], inputs["mm_token_type_ids"], inputs["target_sizes"], inputs["target_sizes_videos"]
    )
    counted = host.positions([host.encode_part(part, None) for part in ROW])
    assert stock[:, 0].tolist() == counted.tolist()


def test_kept_tokens_keep_their_positions() -> None:
    """Text after two videos of different sizes answers as the reference with the positions of the whole prompt."""
    host, row = MiniCPMV47Twin(), (*ROW, RandomWords(3, 7))
    pruner = tangovlm.method("uniform", retention=0.3)
    inputs = host.inputs([row])
    with tangovlm.attach(host.model, pruner) as session:
        said = host.model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert said[0, inputs["input_ids"].shape[1] :].tolist() == host.reference(row, pruner, 4)[0]
    assert [(video.tokens_before, video.tokens_after) for video in session.report.videos] == [(27, 8), (20, 6)]


def test_prompt() -> None:
    tokenizer = ByteTokenizer("<pad>", "<|image_pad|>", "<|video_pad|>", "<image>", "</image>")
    family = MiniCPMV47(MiniCPMV47Twin().model)
    template = (
        "USER: {% for c in messages[0].content %}{{ '<|video_pad|>' if c.type == 'video' else c.text }}{% endfor %}"
    )
    inputs = family.prompt.inputs(tokenizer, template, torch.zeros(1, 2, 3, 32, 32), "Why?")
    frame = "<image>" + "<|video_pad|>" * 4 + "</image>"
    assert tokenizer.whole_text(inputs["input_ids"]) == f"USER: {frame}{frame}Why?"
    assert inputs["mm_token_type_ids"].tolist() == (2 * (inputs["input_ids"] == 2)).tolist()
