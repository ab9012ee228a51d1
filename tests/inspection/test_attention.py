"""Scores, ranks and marked tokens beside plain comparisons of the stock head's attention."""

import csv
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from tangovlm.errors import InputError, ModelError
from tangovlm.inspection import attention
from tangovlm.inspection.clips import ClipSource
from tangovlm.inspection.output import save, write_csv
from tangovlm.methods.common.sink_list import SinkList
from tangovlm.pipeline.load import VideoLLM, load
from tests.inspection.conftest import pooling_head_saliency


@pytest.fixture(scope="module")
def measured(llm: VideoLLM, two_clips: ClipSource) -> attention.ClipAttention:
    return attention.measure(llm, two_clips, top=5, sinks=(3, 60))


def test_scores_are_those_of_the_stock_head(measured: attention.ClipAttention, llm: VideoLLM, tmp_path: Path) -> None:
    wanted = pooling_head_saliency(llm, 0)
    assert [kind.kind for kind in measured.kinds] == ["p-attn", "attn"]
    write_csv(tmp_path / "rows.csv", measured.rows())
    rows = list(csv.DictReader((tmp_path / "rows.csv").open()))
    assert len(rows) == 2 * 4 * 64
    for row in (row for row in rows if row["saliency"] == "p-attn"):
        at = (int(row["step"]), int(row["row"]), int(row["column"]))
        frame, score = wanted[at[0]], wanted[at]
        assert float(row["score"]) == pytest.approx(score, rel=1e-4)
        assert float(row["share"]) == pytest.approx(score / frame.sum(), rel=1e-4)
        assert float(row["rank"]) == pytest.approx((frame < score).sum() / 63, abs=1.1 / 63)
        assert float(row["time_s"]) == pytest.approx(measured.scene.times_s[at[0]])
        assert row["sink"] == str(int(8 * at[1] + at[2] in (3, 60)))
    for step in range(4):
        of_frame = [row for row in rows if row["saliency"] == "p-attn" and row["step"] == str(step)]
        ordered = sorted(of_frame, key=lambda row: int(row["place"]))
        scores = [wanted[step, int(row["row"]), int(row["column"])] for row in ordered]
        assert all(first >= second * (1 - 1e-4) for first, second in pairwise(scores))


def test_summary_counts_the_marked_tokens(measured: attention.ClipAttention) -> None:
    first, second = measured.summary()
    shares = np.sort(measured.kinds[0].share.reshape(4, -1), axis=1)[:, ::-1]
    assert first["their share"] == pytest.approx(shares[:, :5].sum(axis=1).mean())
    assert first["marked tokens"] == 5
    assert first["common with p-attn"] == 1
    tops = [
        {*np.argsort(-kind.scores[step].ravel(), kind="stable")[:5].tolist()}
        for kind in measured.kinds
        for step in range(4)
    ]
    common = [len(one & other) / 5 for one, other in zip(tops[:4], tops[4:], strict=True)]
    assert second["common with p-attn"] == pytest.approx(np.mean(common))


def test_ties_share_their_rank_and_go_to_the_lowest_position() -> None:
    found = attention.Saliency.of("attn", torch.tensor([[[1.0, 2.0], [2.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]))
    assert found.ranks[0].ravel().tolist() == pytest.approx([1 / 3, 5 / 6, 5 / 6, 0])
    assert found.order.tolist() == [[1, 2, 0, 3], [0, 1, 2, 3]]
    assert found.share[0].sum() == 1
    assert found.share[1].sum() == 0


def test_the_picture_is_1000_pixels_wide(measured: attention.ClipAttention, tmp_path: Path) -> None:
    from PIL import Image

    save(tmp_path / "a.png", attention.draw(measured, 2))
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width == 1000
        # Frames have colours of the heat map and of nothing.
        assert len(picture.convert("RGB").getcolors(10**6)) > 50


def test_a_model_with_one_saliency(two_clips: ClipSource) -> None:
    measured = attention.measure(load(saliency="attn", device="cpu"), two_clips)
    assert [kind.kind for kind in measured.kinds] == ["attn"]


def test_refusals(llm: VideoLLM, two_clips: ClipSource) -> None:
    with pytest.raises(ModelError, match=r"mean-query.*choose another saliency"):
        attention.measure(load(saliency="mean-query", device="cpu"), two_clips)
    with pytest.raises(Exception, match="14 x 14.*8 x 8"):
        attention.measure(llm, two_clips, sinks=SinkList((1,), (14, 14)))
    with pytest.raises(InputError, match="64.*8 x 8"):
        attention.measure(llm, two_clips, sinks=(64,))
    with pytest.raises(InputError, match="nothing to rank"):
        attention.Saliency.of("attn", torch.ones(1, 1, 1))
