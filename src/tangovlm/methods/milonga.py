"""Milonga: the tokens that show what a video has not shown yet. This project's own method.

One call of `Milonga.reduce`, step by step: sketch the tokens (`token_sketch`) and measure how far apart they are, find
the runs of what stays (`token_runs`), choose runs that are salient and unlike each other (`farthest_first`), and merge
the others into them (`blend`). Distances are exact and weights are rounded, so that every device keeps the same tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from ..errors import MethodError
from ..kernels import fallback_note
from ..kernels.blend import blend_ragged
from ..kernels.farthest_first import Choice, choose_farthest
from ..kernels.token_runs import find_runs
from ..kernels.token_sketch import MAX_CHANNELS, sketch_tokens, to_grid
from ..registry import register_method
from ..tokens import Selection, VideoTokens
from .common.base import PreLLMMethod
from .common.checks import check_integer, check_number
from .common.selection import to_device, to_host
from .common.similarity import compute_dtype

NO_SALIENCY = "no saliency given: tokens were chosen by their features alone"
_LEAST_FLOOR = 1e-30
_WEIGHT_STEPS = 1 << 10  # weights are multiples of its inverse, so that their sums are exact


@register_method
@dataclass(frozen=True)
class Milonga(PreLLMMethod):
    """Keep what is salient and unlike what is kept already, over the whole video.

    Tokens that stay alike at a position over adjacent frames form a run, which counts once: it has the mean of its
    tokens, at the position of its first one. Runs are chosen greedily, each time the one with the largest
    ``weight * distance to the nearest chosen run``, where the mean of all tokens counts as chosen. Every other run is
    merged into its nearest chosen run, or dropped if that is far away. If there are fewer runs than tokens to keep, all
    are kept, and tokens are taken out of runs: those that differ most from the first of their run and from each other.

    Distances are squared distances between sketches, relative to those between two random tokens of the video, so that
    the thresholds have the same meaning for features with another norm or with a large common mean.

    Parameters
    ----------
    retention: fraction to keep, in (0, 1]; 1 is the identity if ``floor`` is 0.
    exact: keep exactly ``budget.count(retention, T * H * W)`` tokens; False allows ``floor``, and changes nothing else.
    stay: distance to the first token of a run up to which a token joins it, relative to the mean distance between
        tokens of the video, >= 0; 0 joins equal sketches only.
    emphasis: exponent of the saliency relative to its mean, which is the weight of a token, >= 0. 0 reads no saliency.
    alike: distance up to which a run is merged into its nearest chosen one, relative as for ``stay``, >= 0.
    anchor_weight: weight of the chosen run against the mean of all tokens that are merged into it, in [0, 1].
    sketch: channels that distances are computed in, 1 to 1024. Fewer are faster and less accurate.
    floor: stop when the best score, ``weight * distance`` relative as for ``stay``, is below it, >= 0. ``retention`` is
        then the largest fraction that is kept, and a video with less content keeps less.

    Raises
    ------
    InputError: a retention outside (0, 1].
    MethodError: another parameter outside its range, or a floor above 0 with ``exact=True``.

    Examples
    --------
    Four frames of 2 x 2 tokens: two scenes, and in the last frame something new at the first position, which is kept.

    >>> import tangovlm, torch
    >>> features = torch.zeros(4, 2, 2, 2)
    >>> features[:2, ..., 0] = 1.0
    >>> features[2:, ..., 1] = 1.0
    >>> features[3, 0, 0] = torch.tensor([-1.0, 0.0])
    >>> selection = tangovlm.Milonga(retention=0.25)(tangovlm.VideoTokens(features))
    >>> selection.indices.tolist()
    [0, 1, 8, 12]

    A floor lets the content decide how many tokens are kept, at most the retention:

    >>> len(tangovlm.Milonga(retention=0.25, exact=False, floor=0.2)(tangovlm.VideoTokens(features)).indices)
    3
    """

    name: ClassVar[str] = "milonga"
    signal: ClassVar[str] = "p-attn"
    optional: ClassVar[Mapping[str, str]] = {"saliency": NO_SALIENCY}
    positions: ClassVar[Literal["contiguous", "original"]] = "original"
    adaptive_fields: ClassVar[Mapping[str, Any]] = {"exact": False, "floor": 0.2}

    stay: float = 0.35
    emphasis: float = 0.5
    alike: float = 0.9
    anchor_weight: float = 0.6
    sketch: int = 128
    floor: float = 0.0
    needs: frozenset[str] = field(  # type: ignore[misc] # depends on the other fields
        default=frozenset({"saliency"}), init=False, repr=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("stay", "emphasis", "alike", "floor"):
            check_number(name, getattr(self, name), 0)
        check_number("anchor_weight", self.anchor_weight, 0, 1)
        check_integer("sketch", self.sketch, 1)
        if self.sketch > MAX_CHANNELS:
            raise MethodError(f"sketch must be an integer <= {MAX_CHANNELS}, not {self.sketch!r}")
        if self.exact and self.floor:
            raise MethodError(f"floor={self.floor!r} requires exact=False")
        object.__setattr__(self, "needs", frozenset({"saliency"} if self.emphasis else ()))

    @property
    def adaptive(self) -> bool:
        return self.floor > 0

    def reduce(self, tokens: VideoTokens, count: int) -> Selection:
        features = tokens.features.flatten(0, 2)
        points = sketch_tokens(features, self.sketch)
        center, spread = _center_and_spread(points)
        weights = self._weights(tokens)
        first = find_runs(points.view(tokens.frames, -1, points.shape[1]), (self.stay * spread).float()).flatten()
        runs = _Runs.of(_with_at_least(count, first, points, weights), points, weights)
        choice = self._choose(runs, center, spread, count)
        chosen = choice.order.sort().values
        slots = torch.where(choice.distance <= (self.alike * spread).float(), choice.order[choice.nearest], -1)
        slots[chosen] = chosen
        return self._build(tokens, runs, chosen, slots)

    def _weights(self, tokens: VideoTokens) -> Tensor:
        """``(N,)`` int64, in steps of 1 / `_WEIGHT_STEPS`; computed on the host for every device."""
        if tokens.saliency is None or not self.emphasis:
            return torch.full((tokens.count,), _WEIGHT_STEPS, device=tokens.features.device)
        saliency = to_host(tokens.saliency)[0].double().flatten(1)
        saliency[:, list(tokens.sink_tokens or ())] = 0
        mean = saliency.mean()
        relative = saliency / mean if mean else torch.ones_like(saliency)
        weights = (_WEIGHT_STEPS * relative.flatten() ** self.emphasis).round().clamp_min(1)
        return to_device(weights.long(), tokens.features.device)

    def _choose(self, runs: "_Runs", center: Tensor, spread: Tensor, count: int) -> Choice:
        if len(runs.first) == count and not self.floor:
            every = torch.arange(count, device=center.device)
            return Choice(every, every, torch.zeros_like(runs.weights))
        bounds = (runs.points - center).square().sum(dim=1)
        # Above zero, so that a video of equal tokens keeps one.
        floor = (self.floor * spread).float().clamp_min(_LEAST_FLOOR) if self.floor else None
        return choose_farthest(runs.points, runs.weights, bounds, min(count, len(runs.first)), floor)

    def _build(self, tokens: VideoTokens, runs: "_Runs", chosen: Tensor, slots: Tensor) -> Selection:
        """The selection of the chosen runs ``(K,)``, given the run that each run ``(E,)`` is merged into, or -1."""
        features = tokens.features.flatten(0, 2)
        number = torch.zeros_like(slots)
        number[chosen] = torch.arange(len(chosen), device=chosen.device)
        slot = torch.where(slots >= 0, number[slots.clamp_min(0)], -1)[runs.of_token]
        anchors = runs.first[chosen]
        alone = torch.where(slots[runs.of_token] == runs.of_token, slot, -1)
        # Only what has several tokens is averaged: a run, and then what other runs are merged into.
        own, merged = (_sizes(each, len(anchors)) for each in (alone, slot))
        values = features[anchors].to(compute_dtype(features.dtype))
        values[own > 1] = _means(features, alone, anchors, own > 1)
        several = merged > own
        values[several] += (1 - self.anchor_weight) * (_means(features, slot, anchors, several) - values[several])
        grid = (tokens.frames, tokens.height, tokens.width)
        notes = fallback_note(features.device)
        return Selection(anchors, values.to(features.dtype), slot.view(grid), (tokens.frames,), notes)


class _Runs(NamedTuple):
    """The E runs of a video, in the order of their first tokens."""

    first: Tensor  # (E,) int64, grid index of the first token
    of_token: Tensor  # (N,) int64, the run of each token
    points: Tensor  # (E, m) float32 of integers, rounded means of the sketches
    weights: Tensor  # (E,) float32, means

    @staticmethod
    def of(first: Tensor, points: Tensor, weights: Tensor) -> "_Runs":
        """Number the runs, given the grid index of the first token of each token's run."""
        begins = first == torch.arange(len(first), device=first.device)
        of_token = (begins.cumsum(0) - 1)[first]
        firsts = begins.nonzero().flatten()
        # Sums of integers: exact in any order.
        sizes = torch.zeros_like(firsts).index_add_(0, of_token, torch.ones_like(of_token))
        sums = torch.zeros(len(firsts), points.shape[1], dtype=torch.int32, device=points.device)
        means = (sums.index_add_(0, of_token, points.int()) / sizes[:, None]).round_()
        total = torch.zeros_like(firsts).index_add_(0, of_token, weights)
        return _Runs(firsts, of_token, means.float(), (total.double() / sizes / _WEIGHT_STEPS).float())


def _center_and_spread(points: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of the sketches ``(m,)``, scaled to their length, and the mean squared distance of two tokens ``()``."""
    # Sums of integers in float64: exact in any order.
    mean = (points.sum(dim=0, dtype=torch.float64) / len(points)).round()
    squares = torch.linalg.vecdot(points, points).sum(dtype=torch.float64)
    spread = 2 * (squares / len(points) - mean.square().sum())
    return to_grid(mean[None])[0], spread.clamp_min(0)


def _with_at_least(count: int, first: Tensor, points: Tensor, weights: Tensor) -> Tensor:
    """``first (N,)``, with tokens taken out of their runs if there are fewer than ``count``.

    They are chosen as runs are, by their distance to the first token of their run and to each other.
    """
    inside = (first != torch.arange(len(first), device=first.device)).nonzero().flatten()
    missing = count - (len(first) - len(inside))
    if missing <= 0:
        return first
    apart = (points[inside] - points[first[inside]]).square().sum(dim=1)
    chosen = choose_farthest(points[inside], weights[inside].float(), apart, missing, None).order
    return first.scatter(0, inside[chosen], inside[chosen])


def _sizes(slot: Tensor, count: int) -> Tensor:
    """``(count,)`` int64: how many of ``slot (N,)`` have each number."""
    return torch.zeros(count + 1, dtype=torch.int64, device=slot.device).index_add_(0, slot + 1, torch.ones_like(slot))[
        1:
    ]


def _means(features: Tensor, slot: Tensor, anchors: Tensor, wanted: Tensor) -> Tensor:
    """Means of the tokens whose ``slot (N,)`` has each number, for the ``wanted (K,)`` of the K anchors."""
    merged = ((slot >= 0) & wanted[slot.clamp_min(0)]).nonzero().flatten()
    place = torch.searchsorted(merged, anchors[wanted])
    return blend_ragged(features, merged, place, (wanted.cumsum(0) - 1)[slot[merged]], 0.0)
