"""Pieces of clusters beside a search through their neighbours, one token at a time."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tangovlm
from tangovlm.errors import InputError
from tangovlm.inspection import clusters
from tangovlm.inspection.clips import ClipSource, draw_clip
from tangovlm.inspection.output import save, write_csv
from tangovlm.inspection.pieces import piece_of_token
from tangovlm.pipeline.load import VideoLLM
from tangovlm.video import FrameSampling
from tests.inspection.conftest import FRAMES


def plain_pieces(slots: np.ndarray) -> list[set[tuple[int, ...]]]:
    """Connected tokens with the same slot, found by walking from token to token."""
    left = {tuple(at) for at in np.argwhere(slots >= 0).tolist()}
    pieces = []
    while left:
        waiting, piece = [left.pop()], set()
        while waiting:
            at = waiting.pop()
            piece.add(at)
            for axis in range(3):
                for change in (-1, 1):
                    other = tuple(each + change * (axis == number) for number, each in enumerate(at))
                    if other in left and slots[other] == slots[at]:
                        left.remove(other)
                        waiting.append(other)
        pieces.append(piece)
    return pieces


def plain_figures(slots: np.ndarray) -> dict[str, float]:
    of_slot: dict[int, list[int]] = {}
    for piece in plain_pieces(slots):
        of_slot.setdefault(int(slots[next(iter(piece))]), []).append(len(piece))
    spread = {slot for slot in of_slot if len({tuple(at[1:]) for at in np.argwhere(slots == slot).tolist()}) > 1}
    kept = [of_slot[slot] for slot in sorted(spread)]
    if not kept:
        return {"clusters": 0.0}
    return {
        "pieces": float(np.mean([len(sizes) for sizes in kept])),
        "whole": float(np.mean([len(sizes) == 1 for sizes in kept])),
        "largest": float(np.mean([max(sizes) / sum(sizes) for sizes in kept])),
        "tokens": float(np.mean([sum(sizes) for sizes in kept])),
        "clusters": float(len(kept)),
    }


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.integers(1, 5))
def test_random_slots(seed: int, frames: int, height: int, width: int, count: int) -> None:
    slots = np.random.default_rng(seed).integers(-1, count, (frames, height, width))
    found = clusters.figures_of(torch.from_numpy(slots))
    wanted = plain_figures(slots)
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)
    if wanted["clusters"] == 0:
        assert np.isnan(found["pieces"])
    by_piece: dict[int, set[tuple[int, ...]]] = {}
    for at, piece in np.ndenumerate(piece_of_token(slots)):
        if slots[at] >= 0:
            by_piece.setdefault(int(piece), set()).add(at)
    assert {frozenset(piece) for piece in by_piece.values()} == {frozenset(piece) for piece in plain_pieces(slots)}


def test_a_spiral_is_one_piece() -> None:
    """A path that turns back, along which a label has to travel against every axis."""
    slots = np.array([[[0, 0, 0, 0], [1, 1, 1, 0], [0, 0, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]])
    assert clusters.figures_of(torch.from_numpy(slots))["pieces"] == 1


def test_with_and_without_st_rope(llm: VideoLLM, two_clips: ClipSource, tmp_path: Path) -> None:
    measured = clusters.measure(llm, two_clips, tangovlm.method("tango", retention=0.2))
    write_csv(tmp_path / "rows.csv", measured.rows())
    rows = list(csv.DictReader((tmp_path / "rows.csv").open()))
    assert [(row["variant"], row["clip"]) for row in rows] == [
        (variant, f"drawn clip {seed}") for variant in ("with ST-RoPE", "without ST-RoPE") for seed in range(2)
    ]
    for row in rows:
        pruner = tangovlm.Tango(retention=0.2, st_rope=row["variant"] == "with ST-RoPE")
        frames = draw_clip(llm, FRAMES, int(row["clip"][-1]))
        answer = tangovlm.ask(frames, "What?", model=llm, method=pruner, max_new_tokens=1, record=True)
        assert answer.video is not None
        wanted = plain_figures(answer.video.selection.sources.numpy())
        assert {name: float(row[name]) for name in wanted} == pytest.approx(wanted, rel=1e-6)
    differences = {row["figure"]: row for row in measured.summary() if "minus" in row["variant"]}
    pieces = [float(row["pieces"]) for row in rows]
    assert differences["pieces of a cluster"]["mean"] == pytest.approx(np.mean(pieces[:2]) - np.mean(pieces[2:]))
    assert differences["pieces of a cluster"]["low"] is None
    save(tmp_path / "c.png", clusters.draw(measured, 3))
    assert (tmp_path / "c.png").stat().st_size > 10_000


def test_a_method_without_st_rope_is_alone(llm: VideoLLM, two_clips: ClipSource) -> None:
    measured = clusters.measure(llm, two_clips, tangovlm.method("fastvid", retention=0.2))
    assert list(measured.values) == ["fastvid"]
    assert len(measured.summary()) == len(clusters.FIGURES)


def test_intervals_over_twenty_clips() -> None:
    generator = np.random.default_rng(0)
    values = {
        variant: {name: generator.random(20) for name in clusters.FIGURES}
        for variant in ("with ST-RoPE", "without ST-RoPE")
    }
    values["with ST-RoPE"]["pieces"][3] = np.nan
    measured = clusters.MeasuredClusters("m", "tango", values, {}, tuple(map(str, range(20))), ())
    by_name = {(row["variant"], row["figure"]): row for row in measured.summary()}
    whole = by_name["with ST-RoPE", clusters.FIGURES["whole"]]
    assert whole["mean"] == pytest.approx(values["with ST-RoPE"]["whole"].mean())
    assert whole["low"] < whole["mean"] < whole["high"]
    # A clip without clusters counts for neither, and 19 clips have no interval.
    difference = by_name["with ST-RoPE minus without ST-RoPE", clusters.FIGURES["pieces"]]
    assert (difference["clips"], difference["low"]) == (19, None)


def test_a_retention_at_which_tokens_are_merged_is_named(llm: VideoLLM) -> None:
    source = ClipSource(sampling=FrameSampling(FRAMES), drawn=1)
    with pytest.raises(
        InputError, match=r"^drawn clip 0: tango at .*choose a lower retention, such as 0\.\d+$"
    ) as error:
        clusters.measure(llm, source, tangovlm.method("tango", retention=0.99))
    lower = float(str(error.value).rsplit(" ", 1)[1])
    assert clusters.measure(llm, source, tangovlm.method("tango", retention=lower)).values


def test_refusals(llm: VideoLLM, two_clips: ClipSource) -> None:
    with pytest.raises(InputError, match=r"^drawn clip 0, drawn clip 1: topk at .*a method that merges them$"):
        clusters.measure(llm, two_clips, tangovlm.method("topk"))
    for name in ("fastv", "tango+fastv"):
        with pytest.raises(InputError, match="inside the language model.*such as tango"):
            clusters.measure(llm, two_clips, tangovlm.method(name))
