"""What methods keep of a clip beside their answers."""

import csv
from pathlib import Path
from types import SimpleNamespace

import pytest

import tangovlm
from tangovlm.errors import InputError
from tangovlm.inspection import compare
from tangovlm.inspection.clips import ClipSource, draw_clip
from tangovlm.inspection.output import save, write_csv
from tangovlm.models.llava_onevision import PoolingHeadSignals
from tangovlm.pipeline.load import VideoLLM
from tests.inspection.conftest import FRAMES

NAMES = ("tango", "visionzip", "topk", "divprune")


def test_counts_are_those_of_an_answer(llm: VideoLLM, two_clips: ClipSource, tmp_path: Path) -> None:
    measured = compare.measure(llm, two_clips, [tangovlm.method(name, retention=0.2) for name in NAMES])
    assert [(each.method, each.saliency) for each in measured.methods] == [
        ("tango", "p-attn"), ("visionzip", "attn"), ("topk", "attn"), ("divprune", ""),
    ]  # fmt: skip
    write_csv(tmp_path / "rows.csv", measured.rows())
    rows = list(csv.DictReader((tmp_path / "rows.csv").open()))
    frames = draw_clip(llm, FRAMES, 0)
    kept = {}
    for name in NAMES:
        answer = tangovlm.ask(frames, "What?", model=llm, method=name, retention=0.2, max_new_tokens=1, record=True)
        assert answer.video is not None
        selection = answer.video.selection
        kept[name] = set(selection.indices.tolist())
        of_method = [row for row in rows if row["method"] == name]
        assert len(of_method) == FRAMES
        for step, row in enumerate(of_method):
            sources = selection.sources[step].flatten().tolist()
            counts = (sum(index // 64 == step for index in kept[name]), sources.count(-1))
            assert (int(row["kept"]), int(row["dropped"])) == counts
            assert int(row["merged"]) == 64 - sum(counts)
    for row in measured.summary():
        name = row["method"]
        assert row["kept"] == len(kept[name])
        assert row["common with tango"] == pytest.approx(len(kept["tango"] & kept[name]) / len(kept["tango"]))
    save(tmp_path / "c.png", compare.draw(measured, 2))
    assert (tmp_path / "c.png").stat().st_size > 10_000


def test_methods_that_the_family_does_not_support_are_left_out(
    llm: VideoLLM, two_clips: ClipSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PoolingHeadSignals, "provides", frozenset({"saliency", "timestamps"}))
    pruners = [tangovlm.method(name) for name in ("tango", "visionzip")]
    measured = compare.measure(llm, two_clips, pruners, only_supported=True)
    assert [each.method for each in measured.methods] == ["tango"]
    assert any("visionzip is left out" in note and "keys" in note for note in measured.notes)
    with pytest.raises(tangovlm.errors.ModelError, match="visionzip.*keys"):
        compare.measure(llm, two_clips, pruners)


def test_refusals(llm: VideoLLM, two_clips: ClipSource) -> None:
    with pytest.raises(InputError, match="no methods"):
        compare.measure(llm, two_clips, [])
    with pytest.raises(InputError, match="inside the language model"):
        compare.measure(llm, two_clips, [tangovlm.method("tango"), tangovlm.method("fastv")])
    with pytest.raises(InputError, match="fps is given, but no clips"):
        ClipSource(sampling=tangovlm.video.FrameSampling(fps=1.0))
    with pytest.raises(InputError, match="at least 1"):
        ClipSource(drawn=0)


def test_drawn_clips_are_of_the_models_world(llm: VideoLLM) -> None:
    import numpy as np
    import torch

    from tangovlm.tiny.clip import decoded_frames
    from tangovlm.tiny.synthetic.worlds import world

    # The clip of the demo.
    demo = decoded_frames(world(1).draw_clip(np.random.default_rng(0), 16, None), 16)[0]
    assert torch.equal(draw_clip(llm, 16, 0).pixels, demo.pixels)
    second = decoded_frames(world(2).draw_clip(np.random.default_rng(5), 16, None), 20)[0]
    named = SimpleNamespace(name="tangovlm-tiny-2")
    assert torch.equal(draw_clip(named, 20, 5).pixels, second.pixels)  # type: ignore[arg-type]
