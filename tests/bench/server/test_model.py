"""The checkpoint and the clips of the load test."""

import base64
import io
from pathlib import Path

import av
import numpy as np
import torch
from transformers import LlavaOnevisionForConditionalGeneration

import tangovlm
from tangovlm.bench.server.model import Served, data_urls, flops, write_checkpoint


def test_work_of_model_and_tower() -> None:
    language, tower = flops(64)
    assert 3.5 < language / tower < 4.5


def test_checkpoint_is_stock_and_prunes(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    model = LlavaOnevisionForConditionalGeneration.from_pretrained(tmp_path)
    (tmp_path / "clip.mp4").write_bytes(_decoded(data_urls(1, 8)[0]))
    answer = tangovlm.ask(tmp_path / "clip.mp4", "What color is the star?", model=tmp_path, frames=8)
    assert (answer.tokens_before, answer.tokens_after) == (Served.visual_tokens(8), 13)
    assert not any("pooling head" in note for note in answer.notes)
    assert model.dtype == torch.float32


def test_clips_differ() -> None:
    first, second = data_urls(2, 5)
    frames = [_frames(_decoded(url)) for url in (first, second)]
    assert [len(each) for each in frames] == [5, 5]
    assert frames[0][0].shape == (112, 112, 3)
    assert np.abs(frames[0][0].astype(int) - frames[1][0]).mean() > 20


def _decoded(url: str) -> bytes:
    return base64.b64decode(url.removeprefix("data:video/mp4;base64,"), validate=True)


def _frames(data: bytes) -> list[np.ndarray]:
    with av.open(io.BytesIO(data)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
