"""Measuring sinks: every family's saliency as `attach` records it, without a run of the language model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

import tangovlm
from tangovlm import registry
from tangovlm.errors import InputError, ModelError
from tangovlm.inspection import sinks
from tangovlm.models.common.sinks import SinkRanks
from tangovlm.pipeline.load import VideoLLM
from tangovlm.selfcheck.twins.common.base import Twin
from tangovlm.selfcheck.twins.common.parts import RandomWords, Video
from tests.pipeline.test_ask_families import QUESTION, write_checkpoint
from tests.session.test_generate_families import HOSTS
from tests.support.checkpoints import write_clip
from tests.support.tiny_models import state_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

ROW = (RandomWords(3, 1), Video(4, 2), RandomWords(4, 3))


def family_of(host: Twin) -> Any:
    family = registry.family_for(host.model)
    kinds = family.signals.saliency_kinds
    return family(host.model, saliency="attn" if "attn" in kinds else kinds[0])


def fails(*_: object, **__: object) -> None:
    pytest.fail("the language model ran")


@pytest.mark.parametrize("name", HOSTS)
def test_saliency_of_every_family_without_its_language_model(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    host = HOSTS[name]()
    family, inputs = family_of(host), host.inputs([ROW])
    with (
        torch.no_grad(),
        tangovlm.attach(
            host.model, tangovlm.method("topk", retention=0.5), saliency=family.saliency, record=True
        ) as session,
    ):
        host.model(**inputs)
    wanted = [video.saliency for video in session.videos]
    assert len(wanted) == 1
    before = state_of(host.model)
    layer = family.decoder.layers[0]
    monkeypatch.setattr(layer, "forward", fails)
    found = sinks.record_saliency(family, inputs)
    monkeypatch.undo()
    assert state_of(host.model) == before
    assert len(found) == len(wanted)
    for seen, expected in zip(found, wanted, strict=True):
        assert seen.dtype == torch.float32
        assert torch.equal(seen, expected)


def test_no_clips() -> None:
    with pytest.raises(InputError, match="no clips"):
        sinks.measure(None, [])  # type: ignore[arg-type]


def test_a_family_without_the_saliency() -> None:
    host = HOSTS["llava_onevision"]()
    family = registry.family_for(host.model)(host.model, saliency="mean-query")
    with pytest.raises(ModelError, match="mean-query.*choose another saliency"):
        sinks.record_saliency(family, host.inputs([ROW]))


@pytest.fixture(scope="module", params=HOSTS)
def llm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VideoLLM:
    folder = tmp_path_factory.mktemp(request.param)
    write_checkpoint(HOSTS[request.param](), folder)
    return tangovlm.load(folder, saliency="attn")


def test_clips_of_every_family(llm: VideoLLM, tmp_path: Path) -> None:
    clips = [write_clip(tmp_path / f"{frames}.mp4", frames) for frames in (8, 12)]
    by_hand = SinkRanks()
    for clip in clips:
        answer = tangovlm.ask(
            clip, QUESTION, model=llm, method=tangovlm.method("topk", retention=0.5), max_new_tokens=1, record=True
        )
        assert answer.video is not None and answer.video.saliency is not None
        by_hand.add(answer.video.saliency)
    found = sinks.measure(llm, clips)
    assert (found.family, found.saliency, found.clips) == (llm.family.name, "attn", 2)
    assert found.ranks.frames == by_hand.frames
    assert torch.equal(found.ranks.mean, by_hand.mean)
    assert torch.equal(found.ranks.sd, by_hand.sd)
    document = json.loads(json.dumps(found.document(0.5)))
    assert tuple(document["grid"]) == by_hand.grid
    assert list(tangovlm.Tango(sink_tokens=document).sink_tokens) == document["positions"] == list(by_hand.sinks(0.5))


def test_clips_of_another_shape_are_refused_where_the_grid_follows_it(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    write_checkpoint(HOSTS["qwen2_5_vl"](), folder)
    wide = write_clip(tmp_path / "wide.mp4")
    tall = tmp_path / "tall.mp4"
    with av.open(str(tall), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 96, "yuv420p"
        picture = np.zeros((96, 64, 3), dtype=np.uint8)
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    with pytest.raises(InputError, match=r"tall\.mp4.*tokens here and .* before.*one shape at a time"):
        sinks.measure(tangovlm.load(folder), [wide, tall])
