"""FastVID, HoliTom, PruneVid and FlashVID: what holds for every input, and what each rests on."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tangovlm import Selection, TangoError, VideoTokens, method
from tangovlm.budget import count
from tests.support.strategies import make_features, retentions, video_tokens

COMMON = settings(max_examples=80, deadline=None, derandomize=True)
NAMES = ("fastvid", "holitom", "prunevid", "flashvid")
RATIOS = st.sampled_from((0.0, 0.25, 0.4, 0.7, 1.0))
THRESHOLDS = st.sampled_from((-1.0, 0.3, 0.65, 0.9))
WHOLE = st.integers(1, 9)

OPTIONS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "fastvid": {
        "min_segments": WHOLE,
        "segment_threshold": THRESHOLDS,
        "context_ratio": RATIOS,
        "anchor_interval": WHOLE,
        "anchor_weight": RATIOS,
        "neighbors": WHOLE,
    },
    "holitom": {"segment_threshold": THRESHOLDS, "anchor_weight": RATIOS, "neighbors": WHOLE},
    "prunevid": {
        "static_threshold": THRESHOLDS,
        "temporal_ratio": RATIOS,
        "cluster_ratio": st.sampled_from((0.25, 0.5, 1.0)),
        "neighbors": WHOLE,
        "small_block": st.integers(0, 14),
    },
    "flashvid": {
        "expansion": st.sampled_from((0.5, 1.0, 1.25, 3.0)),
        "min_segments": WHOLE,
        "segment_threshold": THRESHOLDS,
        "token_selection": st.sampled_from(("attn_div", "attn_div_v2")),
        "selection_ratio": RATIOS,
        "temporal_threshold": THRESHOLDS,
        "neighbors": WHOLE,
        "subtree_counts": st.none() | st.booleans(),
    },
}


@st.composite
def calls(draw: st.DrawFn, name: str) -> tuple[VideoTokens, dict[str, Any]]:
    """A small video, with or without frame features, and settings of the method."""
    tokens = draw(video_tokens())
    if draw(st.booleans()):
        generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
        tokens = replace(tokens, frame_features=torch.randn(tokens.frames, 5, generator=generator))
    return tokens, draw(st.fixed_dictionaries({"retention": retentions}, optional=OPTIONS[name]))


def assert_valid(tokens: VideoTokens, selection: Selection) -> None:
    """Slots are in order and used, every slot holds its own token, values are finite and of the tokens' type."""
    kept = len(selection.indices)
    assert selection.indices.dtype == selection.sources.dtype == torch.int64
    assert bool((selection.indices.diff() > 0).all())
    assert 0 <= int(selection.indices[0]) <= int(selection.indices[-1]) < tokens.count
    assert selection.features.shape == (kept, tokens.dim)
    assert selection.features.dtype == tokens.features.dtype
    assert bool(selection.features.isfinite().all())
    assert selection.sources.shape == tokens.features.shape[:3]
    assert torch.equal(selection.sources.flatten()[selection.indices], torch.arange(kept))
    assert -1 <= int(selection.sources.min()) <= int(selection.sources.max()) < kept
    assert sum(selection.segments) == tokens.frames
    assert min(selection.segments) > 0


def assert_same(a: Selection, b: Selection) -> None:
    for name in ("indices", "features", "sources"):
        assert torch.equal(getattr(a, name), getattr(b, name))
    assert a.segments == b.segments


@pytest.mark.parametrize("name", NAMES)
def test_exact_count_for_every_input(name: str) -> None:
    @COMMON
    @given(calls(name))
    def check(call: tuple[VideoTokens, dict[str, Any]]) -> None:
        tokens, params = call
        signals = [x for x in (tokens.features, tokens.saliency, tokens.frame_features) if x is not None]
        before = [x.clone() for x in signals]
        selection = method(name, **params)(tokens)
        assert all(torch.equal(a, b) for a, b in zip(before, signals, strict=True))
        assert len(selection.indices) == count(params["retention"], tokens.count)
        assert_valid(tokens, selection)
        assert_same(selection, method(name, **params)(tokens))
        if params["retention"] == 1:
            assert torch.equal(selection.features, tokens.features.flatten(0, 2))

    check()


@pytest.mark.parametrize("name", NAMES)
def test_release_counts_are_valid_selections_too(name: str) -> None:
    @COMMON
    @given(calls(name))
    def check(call: tuple[VideoTokens, dict[str, Any]]) -> None:
        tokens, params = call
        selection = method(name, exact=False, **params)(tokens)
        if len(selection.indices):
            assert_valid(tokens, selection)

    check()


@pytest.mark.parametrize("name", ["holitom", "prunevid", "flashvid"])
def test_a_value_lies_among_what_went_into_it(name: str) -> None:
    @COMMON
    @given(calls(name))
    def check(call: tuple[VideoTokens, dict[str, Any]]) -> None:
        tokens, params = call
        params.pop("subtree_counts", None)
        selection = method(name, **params)(tokens)
        flat, sources = tokens.features.flatten(0, 2), selection.sources.flatten()
        slack = 1e-5 if tokens.features.dtype.itemsize > 2 else 1e-2
        for slot, value in enumerate(selection.features):
            members = flat[sources == slot]
            if len(members) == 1:
                assert torch.equal(value.view(torch.uint8), members[0].view(torch.uint8))
            room = slack * members.abs().amax(0).clamp_min(1e-6)
            assert bool((value >= members.amin(0) - room).all())
            assert bool((value <= members.amax(0) + room).all())

    check()


def scenes(shape: tuple[int, int, int, int] = (6, 3, 4, 16), seed: int = 0) -> VideoTokens:
    saliency = torch.rand(shape[:3], generator=torch.Generator().manual_seed(seed))
    return VideoTokens(make_features("scenes", shape, seed).float(), saliency)


@pytest.mark.parametrize("name", ["fastvid", "holitom", "flashvid"])
def test_a_missing_signal_is_one_clear_line(name: str) -> None:
    with pytest.raises(TangoError, match=r"needs VideoTokens\.saliency \(T, H, W\): pass it"):
        method(name)(VideoTokens(torch.ones(2, 2, 2, 4)))
    assert len(method(name, retention=1.0)(VideoTokens(torch.ones(2, 2, 2, 4))).indices) == 8


def test_fastvid_says_what_stands_in_for_frame_features() -> None:
    tokens = scenes()
    assert method("fastvid")(tokens).notes == ("no frame features given: segmented by the mean of each frame's tokens",)
    features = tokens.features.flatten(1, 2).mean(dim=1)
    given_them = method("fastvid")(replace(tokens, frame_features=features))
    assert given_them.notes == ()
    assert_same(given_them, method("fastvid")(tokens))


def test_needs() -> None:
    assert {name: set(method(name).needs) for name in NAMES} == {
        "fastvid": {"saliency", "frame_features"},
        "holitom": {"saliency"},
        "prunevid": set(),
        "flashvid": {"saliency"},
    }


@pytest.mark.parametrize(
    ("name", "params", "word"),
    [
        *[(name, {"retention": 0.0}, "retention") for name in NAMES],
        *[(name, {"exact": 1}, "exact") for name in NAMES],
        *[(name, {"neighbors": 0}, "neighbors") for name in NAMES],
        ("fastvid", {"min_segments": 0}, "min_segments"),
        ("fastvid", {"segment_threshold": float("nan")}, "segment_threshold"),
        ("fastvid", {"context_ratio": 1.5}, "context_ratio"),
        ("fastvid", {"anchor_interval": 1.0}, "anchor_interval"),
        ("fastvid", {"anchor_weight": -0.1}, "anchor_weight"),
        ("holitom", {"segment_threshold": "high"}, "segment_threshold"),
        ("holitom", {"anchor_weight": 2}, "anchor_weight"),
        ("prunevid", {"static_threshold": None}, "static_threshold"),
        ("prunevid", {"temporal_ratio": -0.5}, "temporal_ratio"),
        ("prunevid", {"cluster_ratio": 1.1}, "cluster_ratio"),
        ("prunevid", {"cluster_ratio": 0}, "cluster_ratio"),
        ("flashvid", {"expansion": 0}, "expansion"),
        ("fastvid", {"segment_threshold": 10**400}, "segment_threshold"),
        ("prunevid", {"small_block": -1}, "small_block"),
        ("flashvid", {"expansion": -1}, "expansion"),
        ("flashvid", {"min_segments": True}, "min_segments"),
        ("flashvid", {"segment_threshold": float("inf")}, "segment_threshold"),
        ("flashvid", {"token_selection": "attn"}, "token_selection"),
        ("flashvid", {"selection_ratio": 1.2}, "selection_ratio"),
        ("flashvid", {"temporal_threshold": -2}, "temporal_threshold"),
        ("flashvid", {"subtree_counts": "yes"}, "subtree_counts"),
    ],
)
def test_settings_out_of_range(name: str, params: dict[str, Any], word: str) -> None:
    with pytest.raises(TangoError, match=f"^{word}") as error:
        method(name, **params)
    assert "\n" not in str(error.value)


def test_holitom_takes_averaged_tokens_out_again_where_there_is_room() -> None:
    features = make_features("still", (4, 2, 2, 8), seed=1).float()
    saliency = torch.zeros(4, 2, 2)
    saliency[2, 1, 0], saliency[3, 0, 1] = 0.9, 0.8
    selection = method("holitom", retention=6 / 16)(VideoTokens(features, saliency))
    assert selection.segments == (4,)
    assert selection.indices.tolist() == [0, 1, 2, 3, 10, 13]
    assert selection.sources.flatten().tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 4, 3, 0, 5, 2, 3]


def test_holitom_gives_every_row_the_same_fraction() -> None:
    # Frames 0-3 are one still scene of 12 columns, frames 4-5 differ: 12 + 2 * 12 entries share 18 places.
    still = make_features("still", (4, 3, 4, 16), seed=2)
    features = torch.cat([still, make_features("random", (2, 3, 4, 16), seed=3)]).float()
    selection = method("holitom", retention=0.25)(VideoTokens(features, torch.rand(6, 3, 4)))
    assert selection.segments == (4, 1, 1)
    assert (selection.indices // 12).bincount(minlength=6).tolist() == [6, 0, 0, 0, 6, 6]


def test_flashvid_averages_a_token_that_stands_still() -> None:
    features = make_features("still", (6, 2, 2, 8), seed=4).float()
    tokens = VideoTokens(features, torch.rand(6, 2, 2, generator=torch.Generator().manual_seed(0)))
    settings = {"min_segments": 1, "selection_ratio": 0.0, "retention": 4 / 24}
    for subtree_counts, factor in ((None, 1), (True, 1), (False, 3)):
        selection = method("flashvid", **settings, subtree_counts=subtree_counts)(tokens)
        assert selection.segments == (6,)
        assert selection.sources.flatten().tolist() == [0, 1, 2, 3] * 6
        torch.testing.assert_close(selection.features, factor * features[0].flatten(0, 1))


def test_flashvid_without_repeats_chooses_as_many_as_it_should() -> None:
    # Half of the tokens point away from the mean of the frame: their weights are negative.
    features = torch.cat([torch.eye(4).expand(1, 3, 4, 4), -0.9 * torch.eye(4).expand(1, 3, 4, 4)], dim=1)
    tokens = VideoTokens(features, torch.ones(1, 6, 4))
    settings = {"retention": 0.75, "selection_ratio": 1.0}
    assert len(method("flashvid", **settings)(tokens).indices) == 18
    assert len(method("flashvid", **settings, exact=False, expansion=1.0)(tokens).indices) < 18


def test_prunevid_keeps_what_its_cluster_ratio_gives_in_the_release() -> None:
    # One still scene of 24 positions: 12 clusters at the first frame, and nothing else.
    tokens = VideoTokens(make_features("still", (5, 4, 6, 16), seed=5).float())
    for retention in (0.05, 0.9):
        assert len(method("prunevid", exact=False, retention=retention)(tokens).indices) == 12
    assert len(method("prunevid", exact=False, small_block=24)(tokens).indices) == 24
