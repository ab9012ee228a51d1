"""Tango: tuned salient selection and spatio-temporal merging (arXiv 2604.09547)."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from ..budget import count, exact_rows, paper_rows, release_rows, validate_retention
from ..errors import MethodError
from ..registry import register_method
from ..tokens import NO_TIMESTAMPS, Selection, VideoTokens, check_sink_tokens
from .common.checks import check_choice, check_flag, check_integer, check_number, is_integer, required_saliency
from .common.reduce import Reducer
from .common.rows import arrange, static_positions
from .common.segments import NO_FRAME_FEATURES, frame_means, segment_by_frames, segment_by_gain, similarity_threshold
from .common.similarity import adjacent_similarity, compute_dtype, normalize, norms_and_cosines
from .common.sink_list import SinkList, read_sinks
from .common.slots import keep_all
from .common.st_rope import Points, neighbors_as_halves, rotation_tables
from .common.transfer import send, to_host
from .common.variants import PaperVariant, variant


@register_method
@dataclass(frozen=True)
class Tango:
    """Keep ``retention`` of the tokens of a video: the salient ones as they are, the others merged over space and time.

    The video is cut into segments; positions that stay the same throughout a segment count once. In every frame the
    most salient tokens are chosen, spread by density-peak clustering; what is left of a segment is clustered under
    ST-RoPE and merged into anchors. The defaults are the paper's, with an exact token count and the blend of the
    authors' code. `Tango.release` does as that code, ``Tango.paper(retention=...)`` as the text of the paper: a cluster
    is a plain average, a segment keeps its share at most, ST-RoPE rotates neighbouring channels (Eq. 8).

    Parameters
    ----------
    retention: fraction to keep, in (0, 1]; 1 is the identity.
    exact: keep exactly ``budget.count(retention, T * H * W)`` tokens; off, as many as `counts` says.
    counts: with ``exact=False``, the counts of the "release" or those of the "paper"; see `budget.release_rows` and
        `budget.paper_rows`.
    placement: "consistent" puts each merged value at its anchor, "release" permutes them as the authors' code does.
    context_ratio: fraction of the kept tokens that are merged ones, in [0, 1].
    expansion: candidates per salient token, >= 1.
    neighbors: nearest neighbours in the density, the point itself not counted, >= 1.
    anchor_weight: weight of an anchor beside its cluster's mean, in [0, 1]; 0 is plain averaging.
    segmentation: "holitom" (most redundant tokens) or "fastvid" (unlike frames, by global frame features).
    segment_threshold: cosine above which (holitom) a token stays, or below which (fastvid) a cut is made; None means
        0.65 for an equivalent retention up to 0.1, else 0.8.
    static_threshold: cosine above which a position is static; None means as `segment_threshold`.
    equivalent_retention: mean kept fraction over the layers, in (0, 1], where pruning goes on inside the model; a
        `Pair` sets it. None means `retention`.
    st_rope: rotate tokens by their position before distances are taken.
    timestamps: rotate by seconds; off, by frame number.
    base_time, base_space: frequency bases of ST-RoPE, > 0.
    rope_sections: channels rotated by (time, row, column), which sum to D; None means about a third each.
    rope_pairs: which channels of a block of d are rotated together: "halves" k and k + d/2, as the authors' code does,
        or "neighbors" 2k and 2k + 1, as the paper writes (Eq. 8).
    diversity: spread salient tokens by clustering; off, plain top-k.
    merge: merge into anchors; off, the other tokens are dropped.
    sink_tokens: grid positions whose saliency is masked; None means those that the video tokens name. Or what
        `tangovlm inspect sinks` measured: its file, or the content of it; read once, it is a `SinkList` from then on.

    Raises
    ------
    InputError: a retention outside (0, 1].
    MethodError: another parameter out of its range, or a file of sinks that cannot be used.
    """

    name: ClassVar[str] = "tango"
    stage: ClassVar[str] = "pre-llm"
    signal: ClassVar[str] = "p-attn"
    paper: ClassVar[PaperVariant] = PaperVariant(
        "https://arxiv.org/abs/2604.09547",
        {"exact": False, "counts": "paper", "anchor_weight": 0.0, "rope_pairs": "neighbors"},
    )
    official_repo: ClassVar[str] = "https://github.com/xjtupanda/Tango@cc815b6"

    retention: float = 0.1
    exact: bool = True
    counts: Literal["release", "paper"] = "release"
    placement: Literal["consistent", "release"] = "consistent"
    context_ratio: float = 0.4
    expansion: float = 1.5
    neighbors: int = 7
    anchor_weight: float = 0.6
    segmentation: Literal["holitom", "fastvid"] = "holitom"
    segment_threshold: float | None = None
    static_threshold: float | None = None
    equivalent_retention: float | None = None
    st_rope: bool = True
    timestamps: bool = True
    base_time: float = 1e4
    base_space: float = 1e3
    rope_sections: tuple[int, int, int] | None = None
    rope_pairs: Literal["halves", "neighbors"] = "halves"
    diversity: bool = True
    merge: bool = True
    sink_tokens: tuple[int, ...] | str | Path | Mapping[str, Any] | None = None
    needs: frozenset[str] = field(default=frozenset({"saliency", "timestamps"}), init=False, repr=False)

    def __post_init__(self) -> None:
        validate_retention(self.retention)
        if self.equivalent_retention is not None:
            validate_retention(self.equivalent_retention)
        for name in ("rope_sections", "sink_tokens"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if isinstance(self.sink_tokens, str | Path | Mapping):
            object.__setattr__(self, "sink_tokens", read_sinks(self.sink_tokens))
        _check(self)
        needs = {"saliency"}
        if self.st_rope and self.timestamps:
            needs.add("timestamps")
        if self.segmentation == "fastvid":
            needs.add("frame_features")
        object.__setattr__(self, "needs", frozenset(needs))

    @classmethod
    def release(
        cls,
        *,
        placement: Literal["consistent", "release"] = "release",
        static_threshold: float = 0.8,
        **params: Any,
    ) -> Self:
        """The method as the authors' code runs it: its counts, its static threshold, its misplaced merged values.

        Where tokens are exact duplicates the authors' code may keep fewer; this keeps the count it aims at.

        Raises
        ------
        MethodError: an unknown parameter, or one out of its range.
        """
        fixed = {"exact": False, "counts": "release"}
        chosen = {"placement": placement, "static_threshold": static_threshold}
        built: Self = variant(cls, "release", fixed, chosen | params)
        return built

    @torch.no_grad()
    def __call__(self, tokens: VideoTokens) -> Selection:
        """Reduce one video.

        Raises
        ------
        InputError: no saliency, sinks outside the grid, or sections that do not sum to D.
        MethodError: sinks that were measured on another grid.
        """
        seen = self._look(tokens)
        segments, static = self._segment(seen)
        if self.retention == 1:
            return keep_all(tokens, segments)
        saliency = self._saliency(tokens, seen)
        rows = arrange(static, segments)
        if self.exact:
            total = count(self.retention, tokens.count)
            counts = exact_rows(total, rows.shapes, self.context_ratio)
            reopen = total - sum(row.kept for row in counts)
        else:
            spread = paper_rows if self.counts == "paper" else release_rows
            counts, reopen = spread(self.retention, rows.shapes, self.context_ratio), 0
        reducer = Reducer(
            self.expansion, self.neighbors, self.anchor_weight, self.diversity, self.merge, self.placement == "release"
        )
        selection = reducer(tokens, self._points(tokens, seen.norms).of, saliency, rows, counts, reopen)
        return replace(selection, notes=self._notes(tokens) + selection.notes)

    @property
    def _threshold(self) -> float:
        if self.segment_threshold is not None:
            return self.segment_threshold
        return similarity_threshold(self.equivalent_retention or self.retention)

    def _look(self, tokens: VideoTokens) -> "_Seen":
        """What the choice of counts and candidates rests on, brought to the host in a single transfer."""
        norms, similarity = norms_and_cosines(tokens.features.flatten(1, 2))
        adjacent = saliency = similarity[:0]
        if self.segmentation == "fastvid":
            frames = frame_means(tokens) if tokens.frame_features is None else tokens.frame_features
            adjacent = adjacent_similarity(normalize(frames))
        if self.retention < 1:
            saliency = required_saliency(self, tokens)
        return _Seen(norms.flatten(), *to_host(similarity, adjacent, saliency))

    def _segment(self, seen: "_Seen") -> tuple[tuple[int, ...], Tensor]:
        """Frames of each segment, and its static positions ``(S, L)`` bool; all on the host."""
        static_threshold = self._threshold if self.static_threshold is None else self.static_threshold
        if self.segmentation == "holitom":
            segments = segment_by_gain(seen.similarity > self._threshold)
        else:
            segments = segment_by_frames(seen.adjacent, self._threshold)
        return segments, static_positions(seen.similarity > static_threshold, segments)

    def _saliency(self, tokens: VideoTokens, seen: "_Seen") -> Tensor:
        """``(N,)`` on the host with the sinks masked, in a copy."""
        sinks = tokens.sink_tokens or ()
        if isinstance(self.sink_tokens, SinkList):
            self.sink_tokens.check_grid(tokens.height, tokens.width)
        if isinstance(self.sink_tokens, tuple):
            check_sink_tokens("Tango.sink_tokens", self.sink_tokens, tokens.height, tokens.width)
            sinks = self.sink_tokens
        saliency = seen.saliency.to(compute_dtype(seen.saliency.dtype), copy=True).flatten(1)
        saliency[:, list(sinks)] = 0
        return saliency.flatten()

    def _points(self, tokens: VideoTokens, norms: Tensor) -> Points:
        """Where distances are taken."""
        features, tables = tokens.features.flatten(0, 2), None
        if self.st_rope:
            times = torch.arange(tokens.frames)
            if self.timestamps and tokens.timestamps is not None:
                times = tokens.timestamps
            tables = rotation_tables(
                times if times.device == norms.device else send(times, norms.device),
                (tokens.height, tokens.width, tokens.dim),
                sections=self.rope_sections,
                base_time=self.base_time,
                base_space=self.base_space,
                dtype=norms.dtype,
            )
            if self.rope_pairs == "neighbors":
                # Distances do not change when all points have their channels in another order.
                features = features[:, neighbors_as_halves(tables.sections).to(features.device)]
        return Points(features, norms, tables)

    def _notes(self, tokens: VideoTokens) -> tuple[str, ...]:
        notes = []
        if "timestamps" in self.needs and tokens.timestamps is None:
            notes.append(NO_TIMESTAMPS)
        if "frame_features" in self.needs and tokens.frame_features is None:
            notes.append(NO_FRAME_FEATURES)
        return tuple(notes)


@dataclass(frozen=True, eq=False)
class _Seen:
    """What is measured of a video before anything is chosen; on the host but for the norms.

    Parameters
    ----------
    norms: ``(N,)`` on the device.
    similarity: ``(T - 1, L)``, cosines of each token and the next at its place.
    adjacent: ``(T - 1,)``, cosines of the global features of adjacent frames; empty where they do not count.
    saliency: ``(T, H, W)``; empty where nothing is chosen.
    """

    norms: Tensor
    similarity: Tensor
    adjacent: Tensor
    saliency: Tensor


def _check(tango: Tango) -> None:
    """Raise `MethodError` for the first parameter out of its range."""
    check_choice("counts", tango.counts, ("release", "paper"))
    check_choice("placement", tango.placement, ("consistent", "release"))
    check_choice("rope_pairs", tango.rope_pairs, ("halves", "neighbors"))
    check_choice("segmentation", tango.segmentation, ("holitom", "fastvid"))
    for name in ("exact", "st_rope", "timestamps", "diversity", "merge"):
        check_flag(name, getattr(tango, name))
    if tango.exact and tango.counts != "release":
        raise MethodError(f"counts={tango.counts!r} says what is kept with exact=False: pass that too")
    check_number("context_ratio", tango.context_ratio, 0, 1)
    check_number("anchor_weight", tango.anchor_weight, 0, 1)
    check_number("expansion", tango.expansion, 1)
    for name in ("segment_threshold", "static_threshold"):
        if getattr(tango, name) is not None:
            check_number(name, getattr(tango, name))
    for name in ("base_time", "base_space"):
        check_number(name, getattr(tango, name), 0, above=True)
    check_integer("neighbors", tango.neighbors, 1)
    sections = tango.rope_sections
    if sections is not None and (
        not isinstance(sections, tuple) or len(sections) != 3 or not all(is_integer(s) and s >= 0 for s in sections)
    ):
        raise MethodError(f"rope_sections must be three integers >= 0 (time, row, column), not {sections!r}")
    sinks = tango.sink_tokens
    if sinks is not None and (not isinstance(sinks, tuple) or not all(is_integer(s) and s >= 0 for s in sinks)):
        raise MethodError(
            f"sink_tokens must be a tuple of grid positions h * W + w, or a file of measured ones, not {sinks!r}"
        )
