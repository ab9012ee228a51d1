"""Sorted scores and shares of the top tokens beside plain sums."""

import csv
from pathlib import Path

import numpy as np
import pytest

from tangovlm.errors import InputError
from tangovlm.inspection import distribution
from tangovlm.inspection.clips import ClipSource
from tangovlm.inspection.output import save, write_csv
from tangovlm.pipeline.load import VideoLLM
from tangovlm.video import FrameSampling
from tests.inspection.conftest import pooling_head_saliency


def test_means_over_clips(llm: VideoLLM, two_clips: ClipSource, tmp_path: Path) -> None:
    measured = distribution.measure(llm, two_clips, shares=(0.1, 0.5))
    assert (measured.clips, measured.frames, measured.grid) == (2, 8, (8, 8))
    clips = []
    for seed in range(2):
        saliency = pooling_head_saliency(llm, seed).reshape(4, 64)
        descending = np.sort(saliency / saliency.sum(axis=1, keepdims=True), axis=1)[:, ::-1]
        clips.append(descending.mean(axis=0))
    mean, sd = np.mean(clips, axis=0), np.std(clips, axis=0)
    write_csv(tmp_path / "rows.csv", measured.rows())
    rows = [row for row in csv.DictReader((tmp_path / "rows.csv").open()) if row["saliency"] == "p-attn"]
    assert [int(row["place"]) for row in rows] == list(range(1, 65))
    assert [float(row["share_mean"]) for row in rows] == pytest.approx(mean.tolist(), rel=1e-4)
    assert [float(row["share_sd"]) for row in rows] == pytest.approx(sd.tolist(), abs=1e-6)
    tops = np.cumsum(clips, axis=1)
    assert [float(row["top_share_mean"]) for row in rows] == pytest.approx(tops.mean(axis=0).tolist(), rel=1e-4)
    assert [float(row["top_share_sd"]) for row in rows] == pytest.approx(tops.std(axis=0).tolist(), abs=1e-6)
    assert float(rows[-1]["top_share_mean"]) == pytest.approx(1)
    first, second = measured.summary()[:2]
    # 6.4 tokens are 6, and two clips have no interval.
    assert (first["tokens"], second["tokens"], first["low"]) == (6, 32, None)
    assert first["share"] == pytest.approx(tops[:, 5].mean(), rel=1e-4)
    assert second["SD"] == pytest.approx(tops[:, 31].std(), abs=1e-6)
    save(tmp_path / "d.png", distribution.draw(measured))
    assert (tmp_path / "d.png").stat().st_size > 10_000


def test_one_clip_has_no_standard_deviation(llm: VideoLLM) -> None:
    measured = distribution.measure(llm, ClipSource(sampling=FrameSampling(2), drawn=1), shares=(0.1,))
    assert {row["share_sd"] for row in measured.rows()} == {row["top_share_sd"] for row in measured.rows()} == {None}
    assert {row["SD"] for row in measured.summary()} == {None}
    figure = distribution.draw(measured)
    assert "±" not in figure._suptitle.get_text()
    assert not any(axes.collections for axes in figure.axes)


def test_refusals(llm: VideoLLM, two_clips: ClipSource) -> None:
    with pytest.raises(InputError, match="retention"):
        distribution.measure(llm, two_clips, shares=(1.5,))
    with pytest.raises(InputError, match=r"b\.mp4.*3 x 6 tokens here and 4 x 4 before"):
        distribution.check_grid("b.mp4", (3, 6), (4, 4))
