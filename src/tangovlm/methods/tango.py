"""Tango: tuned salient selection and spatio-temporal merging (arXiv 2604.09547).

One call of `Tango.reduce`, step by step: measure the video (`similarity`), cut it into segments and find the static
positions (`segments`), group the tokens (`groups`), split the budget over the groups (`tangovlm.budget`), select
salient tokens and merge the others (`select_and_merge`, with the distances of `st_rope`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from ..budget import exact_group_counts, paper_group_counts, release_group_counts, validate_retention
from ..errors import MethodError
from ..registry import register_method
from ..tokens import Selection, VideoTokens
from ..validation import check_sink_tokens
from .common.base import PaperVariant, PreLLMMethod, variant
from .common.checks import check_choice, check_flag, check_integer, check_number, is_integer
from .common.groups import GroupedSelectionBuilder, group_tokens
from .common.segments import frame_means, segment_by_frames, segment_by_gain, similarity_threshold, static_positions
from .common.select_and_merge import merge_remaining, select_salient
from .common.selection import to_device, to_host
from .common.similarity import adjacent_similarity, compute_dtype, normalize, norms_and_cosines
from .common.sink_list import SinkList, read_sinks
from .common.st_rope import Points, neighbors_as_halves, rotation_tables


@register_method
@dataclass(frozen=True)
class Tango(PreLLMMethod):
    """Keep salient tokens unchanged, and merge the others over space and time.

    The video is cut into segments; positions that stay the same throughout a segment count once. In every frame the
    most salient tokens are selected, spread by density-peak clustering. The remaining tokens of a segment are clustered
    under ST-RoPE and merged into anchors.

    The defaults are the paper's, with an exact token count and the blend of the authors' code. `Tango.release`
    reproduces that code. ``Tango.paper(retention=...)`` follows the text of the paper: a cluster becomes a plain
    average, a segment keeps at most its share, and ST-RoPE rotates adjacent channels (Eq. 8).

    Parameters
    ----------
    retention: fraction to keep, in (0, 1]; 1 is the identity.
    exact: keep exactly ``budget.count(retention, T * H * W)`` tokens; False keeps as many as `counts` defines.
    counts: with ``exact=False``, "release" or "paper"; see `budget.release_group_counts` and
        `budget.paper_group_counts`.
    placement: "consistent" stores each merged value at its anchor, "release" permutes the values as the authors' code
        does.
    context_ratio: fraction of the kept tokens that are merged ones, in [0, 1].
    expansion: candidates per salient token, >= 1.
    neighbors: nearest neighbours for the density, excluding the point itself, >= 1.
    anchor_weight: weight of an anchor against its cluster's mean, in [0, 1]; 0 is plain averaging.
    segmentation: "holitom" (as many redundant tokens as possible) or "fastvid" (cuts between dissimilar frames, by
        global frame features).
    segment_threshold: for "holitom" the cosine above which a token is unchanged, for "fastvid" the cosine below which
        the video is cut; None means 0.65 for an equivalent retention up to 0.1, else 0.8.
    static_threshold: cosine above which a position is static; None means the value of `segment_threshold`.
    equivalent_retention: mean kept fraction over the layers, in (0, 1], if pruning continues inside the model; a `Pair`
        sets it. None means `retention`.
    st_rope: rotate tokens by their position before distances are computed.
    timestamps: rotate by seconds; False rotates by frame number.
    base_time, base_space: frequency bases of ST-RoPE, > 0.
    rope_sections: channels rotated by (time, row, column), which sum to D; None means about a third each.
    rope_pairs: channels of a block of d that are rotated together: "halves" k and k + d/2, as in the authors' code, or
        "neighbors" 2k and 2k + 1, as in the paper (Eq. 8).
    diversity: spread salient tokens by clustering; False selects the top k.
    merge: merge into anchors; False drops the other tokens.
    sink_tokens: grid positions whose saliency is masked; None means those of the video tokens. Or the result of
        `tangovlm inspect sinks`: the path of its file, or the content, which is converted to a `SinkList`.

    Raises
    ------
    InputError: a retention outside (0, 1].
    MethodError: another parameter outside its range, or a file of sinks that cannot be used.

    Examples
    --------
    Two scenes of two still frames, each of 2 x 2 tokens:

    >>> import tangovlm, torch
    >>> scenes = torch.eye(2)[[0, 0, 1, 1]].view(4, 1, 1, 2).repeat(1, 2, 2, 1)
    >>> tokens = tangovlm.VideoTokens(scenes, saliency=torch.ones(4, 2, 2), timestamps=torch.arange(4.0))
    >>> selection = tangovlm.Tango(retention=0.25)(tokens)
    >>> selection.segments, selection.indices.tolist()
    ((2, 2), [0, 1, 8, 9])
    """

    name: ClassVar[str] = "tango"
    signal: ClassVar[str] = "p-attn"
    paper: ClassVar[PaperVariant] = PaperVariant(
        "https://arxiv.org/abs/2604.09547",
        {"exact": False, "counts": "paper", "anchor_weight": 0.0, "rope_pairs": "neighbors"},
    )
    official_repo: ClassVar[str] = "https://github.com/xjtupanda/Tango@cc815b6"

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
    needs: frozenset[str] = field(  # type: ignore[misc] # depends on the other fields
        default=frozenset({"saliency", "timestamps"}), init=False, repr=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
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
        cls, *, placement: Literal["consistent", "release"] = "release", static_threshold: float = 0.8, **params: Any
    ) -> Self:
        """The method as in the authors' code: its counts, static threshold and incorrect placement of merged values.

        If tokens are exact duplicates the authors' code may keep fewer; this method keeps the intended count.

        Raises
        ------
        MethodError: an unknown parameter, or one outside its range.
        """
        fixed = {"exact": False, "counts": "release"}
        chosen = {"placement": placement, "static_threshold": static_threshold}
        built: Self = variant(cls, "release", fixed, chosen | params)
        return built

    def segment(self, tokens: VideoTokens) -> tuple[int, ...]:
        """Frames of each segment."""
        return self._segment(self._measure(tokens))

    def reduce(self, tokens: VideoTokens, count: int) -> Selection:
        """See `PreLLMMethod.reduce`. Refuses sinks on another grid, and sections that do not sum to D."""
        measured = self._measure(tokens)
        segments = self._segment(measured)
        static = measured.similarity > (self._threshold if self.static_threshold is None else self.static_threshold)
        saliency = self._mask_sinks(tokens, measured.saliency)
        groups = group_tokens(static_positions(static, segments), segments)
        if self.exact:
            counts = exact_group_counts(count, groups.shapes, self.context_ratio)
        elif self.counts == "paper":
            counts = paper_group_counts(self.retention, groups.shapes, self.context_ratio)
        else:
            counts = release_group_counts(self.retention, groups.shapes, self.context_ratio)
        kept = sum(group.kept for group in counts)
        # If the budget exceeds the number of entries, some static tokens are kept beside the mean of their position.
        extra = count - kept if self.exact else 0
        builder = GroupedSelectionBuilder(tokens, saliency, groups, extra)
        if kept == len(groups.grid_indices):
            builder.keep(torch.arange(kept, device=builder.device))
        else:
            points = self._points(tokens, measured.norms).at
            select_salient(
                builder, points, counts, expansion=self.expansion, neighbors=self.neighbors, diversity=self.diversity
            )
            merge_remaining(
                builder,
                points,
                counts,
                neighbors=self.neighbors,
                anchor_weight=self.anchor_weight,
                merge=self.merge,
                misplace=self.placement == "release",
            )
        return builder.build(kept + extra)

    @property
    def _threshold(self) -> float:
        if self.segment_threshold is not None:
            return self.segment_threshold
        return similarity_threshold(self.equivalent_retention or self.retention)

    def _measure(self, tokens: VideoTokens) -> "_Measurements":
        """The values that counts and candidates depend on, copied to the host in a single transfer."""
        norms, similarity = norms_and_cosines(tokens.features.flatten(1, 2))
        frame_similarity = saliency = similarity[:0]
        if self.segmentation == "fastvid":
            frames = frame_means(tokens) if tokens.frame_features is None else tokens.frame_features
            frame_similarity = adjacent_similarity(normalize(frames))
        if tokens.saliency is not None:
            saliency = tokens.saliency
        return _Measurements(norms.flatten(), *to_host(similarity, frame_similarity, saliency))

    def _segment(self, measured: "_Measurements") -> tuple[int, ...]:
        if self.segmentation == "holitom":
            return segment_by_gain(measured.similarity > self._threshold)
        return segment_by_frames(measured.frame_similarity, self._threshold)

    def _mask_sinks(self, tokens: VideoTokens, saliency: Tensor) -> Tensor:
        """A copy ``(N,)`` of ``saliency (T, H, W)`` on the host, zero at the sinks."""
        sinks = tokens.sink_tokens or ()
        if isinstance(self.sink_tokens, SinkList):
            self.sink_tokens.check_grid(tokens.height, tokens.width)
        if isinstance(self.sink_tokens, tuple):
            check_sink_tokens("Tango.sink_tokens", self.sink_tokens, tokens.height, tokens.width)
            sinks = self.sink_tokens
        saliency = saliency.to(compute_dtype(saliency.dtype), copy=True).flatten(1)
        saliency[:, list(sinks)] = 0
        return saliency.flatten()

    def _points(self, tokens: VideoTokens, norms: Tensor) -> Points:
        """Where distances between tokens are measured."""
        features, tables = tokens.features.flatten(0, 2), None
        if self.st_rope:
            times = torch.arange(tokens.frames)
            if self.timestamps and tokens.timestamps is not None:
                times = tokens.timestamps
            tables = rotation_tables(
                times if times.device == norms.device else to_device(times, norms.device),
                (tokens.height, tokens.width, tokens.dim),
                sections=self.rope_sections,
                base_time=self.base_time,
                base_space=self.base_space,
                dtype=norms.dtype,
            )
            if self.rope_pairs == "neighbors":
                # Distances do not change if the channels of all points are permuted alike.
                features = features[:, neighbors_as_halves(tables.sections).to(features.device)]
        return Points(features, norms, tables)


@dataclass(frozen=True, eq=False)
class _Measurements:
    """Values measured on a video before anything is selected; on the host except for the norms.

    Parameters
    ----------
    norms: ``(N,)`` on the device of the features.
    similarity: ``(T - 1, L)``, cosines between tokens at the same position of adjacent frames.
    frame_similarity: ``(T - 1,)``, cosines between the global features of adjacent frames; empty if unused.
    saliency: ``(T, H, W)``; empty if there is none.
    """

    norms: Tensor
    similarity: Tensor
    frame_similarity: Tensor
    saliency: Tensor


def _check(tango: Tango) -> None:
    """Raise `MethodError` for the first parameter outside its range."""
    check_choice("counts", tango.counts, ("release", "paper"))
    check_choice("placement", tango.placement, ("consistent", "release"))
    check_choice("rope_pairs", tango.rope_pairs, ("halves", "neighbors"))
    check_choice("segmentation", tango.segmentation, ("holitom", "fastvid"))
    for name in ("st_rope", "timestamps", "diversity", "merge"):
        check_flag(name, getattr(tango, name))
    if tango.exact and tango.counts != "release":
        raise MethodError(f"counts={tango.counts!r} requires exact=False")
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
