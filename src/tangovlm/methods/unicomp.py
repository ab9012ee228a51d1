"""UniComp: dissimilar tokens of groups of near-equal frames, each averaged with what is like it (arXiv 2512.03575)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..budget import exact, proportional
from ..errors import MethodError
from ..registry import register_method
from ..tokens import Selection, VideoTokens
from .common.base import PreLLMMethod
from .common.checks import check_flag, check_number
from .common.frame_groups import FrameGroups, group_frames
from .common.selection import SelectionBuilder, take, true_indices
from .common.similarity import compute_dtype, normalize

NO_KEYS = "no keys given: the features stand in for them"
NO_FRAME_FEATURES = "no frame features given: the mean of each token's channels stands in for them"

# Shares of groups in the exact count are multiples of this, so that rounding errors do not decide between equal ones.
_SHARE_UNIT = 2.0**-20


@register_method
@dataclass(frozen=True)
class UniComp(PreLLMMethod):
    """Fuse near-equal frames, and keep tokens that are unlike each other, averaged with those that are like them.

    Frames that hardly differ from the first of their group are averaged. A group whose content is unlike that of the
    others gets a larger share of the budget. Inside a group, tokens are taken from the most unusual to the most usual
    one, and a token that is like a taken one is passed over. A kept token is the mean of its own value and of the mean
    over all tokens that are like it.

    Parameters
    ----------
    retention: fraction to keep, in (0, 1]; 1 is the identity unless `auto_compression` is set.
    exact: keep exactly ``budget.count(retention, T * H * W)`` tokens; tokens that were passed over fill up what is
        missing. False uses the release's counts, which are at most that.
    frame_uniqueness: frames whose mean tokens have at most this distance, 1 - cosine, are fused; in [0, 2].
    token_uniqueness: tokens whose keys have less than this distance are alike; in (0, 2].
    auto_compression: let the thresholds decide how many tokens are kept; `retention` is the most. Only with
        ``exact=False``.

    Raises
    ------
    InputError: a retention outside (0, 1].
    MethodError: another parameter outside its range, or `auto_compression` with ``exact=True``.
    """

    name: ClassVar[str] = "unicomp"
    paper: ClassVar[str] = "https://arxiv.org/abs/2512.03575"
    official_repo: ClassVar[str] = "https://github.com/TimeMarker-LLM/UniComp@1904269"
    needs: ClassVar[frozenset[str]] = frozenset({"keys", "frame_features"})
    optional: ClassVar[Mapping[str, str]] = {"keys": NO_KEYS, "frame_features": NO_FRAME_FEATURES}
    adaptive_fields: ClassVar[Mapping[str, Any]] = {"exact": False, "auto_compression": True}

    frame_uniqueness: float = 0.005
    token_uniqueness: float = 0.2
    auto_compression: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("frame_uniqueness", self.frame_uniqueness, 0, 2)
        check_number("token_uniqueness", self.token_uniqueness, 0, 2, above=True)
        check_flag("auto_compression", self.auto_compression)
        if self.auto_compression and self.exact:
            raise MethodError("auto_compression keeps as many tokens as the content needs: pass exact=False")

    @property
    def adaptive(self) -> bool:
        """Whether the content decides how many tokens are kept."""
        return self.auto_compression

    def reduce(self, tokens: VideoTokens, count: int) -> Selection:
        groups = group_frames(tokens, self.frame_uniqueness, self._longest(tokens.frames))
        most = count if self.exact else int(self.retention * tokens.frames * tokens.height * tokens.width)
        if not self.exact and not self.auto_compression and len(groups.sizes) * groups.length <= most:
            return _keep_groups(groups)
        ranking = self._rank(groups)
        return self._merge(groups, ranking.tokens, self._counts(groups, ranking, most))

    def _longest(self, frames: int) -> int:
        """The most frames of a group."""
        if self.auto_compression:
            return frames
        # The release compares before it adds a frame, so that its groups have one more.
        return floor(1 / exact(self.retention)) if self.exact else int(1 / self.retention) + 1

    def _counts(self, groups: FrameGroups, ranking: "Ranking", most: int) -> list[int]:
        """Tokens that each group keeps."""
        scores, candidates = _to_host(_scores(groups), ranking.candidates)
        if self.exact:
            return _exact_counts(scores, candidates, most, groups.length)
        number = len(candidates)
        shares = [most // number] * number if self.auto_compression else release_shares(scores, most, groups.length)
        return _redistribute(shares, candidates)

    def _alike(self, similarity: Tensor) -> Tensor:
        return 1 - similarity < self.token_uniqueness

    def _rank(self, groups: FrameGroups) -> "Ranking":
        """Order the tokens of each group: those that are unlike all before them, then the others."""
        ranked, counts = [], []
        for chunk in groups.chunks(groups.length):
            keys = groups.keys(chunk)
            usual = torch.linalg.vecdot(keys, keys.mean(dim=1, keepdim=True))
            order = usual.sort(dim=1, stable=True).indices
            keys = take(keys, order)
            later_alike = self._alike(keys @ keys.mT).triu_(1)
            distinct = torch.ones_like(order, dtype=torch.bool)
            for i in range(groups.length):
                distinct.masked_fill_(later_alike[:, i] & distinct[:, i, None], False)
            ranked.append(order.gather(1, (~distinct).to(torch.uint8).sort(dim=1, stable=True).indices))
            counts.append(distinct.sum(dim=1))
        return Ranking(torch.cat(ranked), torch.cat(counts))

    def _merge(self, groups: FrameGroups, ranking: Tensor, counts: Sequence[int]) -> Selection:
        """Average each kept token, the first ``counts[g]`` of ``ranking (G, L)``, with the tokens that are like it."""
        rank = torch.arange(groups.length, device=ranking.device)
        kept = torch.zeros_like(ranking, dtype=torch.bool)
        kept.scatter_(1, ranking, rank < torch.tensor(counts, device=ranking.device)[:, None])
        builder = SelectionBuilder(groups.tokens)
        indices = groups.grid_indices()
        first = indices[:, :1]
        builder.keep(indices.flatten()[true_indices(kept.flatten(), sum(counts))])
        slots = torch.full_like(ranking, -1)
        for chunk in groups.chunks(max(groups.tokens.dim, groups.length)):
            most = max(counts[chunk])
            if most:
                # The kept positions of each group, ascending; a group with fewer is padded with others.
                rows = (~kept[chunk]).to(torch.uint8).sort(dim=1, stable=True).indices[:, :most]
                is_kept = kept[chunk].gather(1, rows)
                values, slots[chunk] = self._merge_chunk(groups, chunk, rows, is_kept, first[chunk])
                builder.set_values(first[chunk] + rows, values)
        groups.assign(builder, torch.where(kept, indices, slots))
        return builder.build(groups.sizes, sum(counts))

    def _merge_chunk(
        self, groups: FrameGroups, chunk: slice, rows: Tensor, is_kept: Tensor, first: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Values ``(g, k, D)`` of tokens ``rows (g, k)`` of some groups, and the slot ``(g, L)`` of every token."""
        keys, features = groups.keys(chunk), groups.features(chunk)
        own_keys, own = take(keys, rows), take(features, rows)
        similarity = own_keys @ keys.mT
        alike = self._alike(similarity)
        # Rounding must not decide that a token is like itself; a zero key is like nothing in the release.
        itself = alike.gather(2, rows[..., None]) | (own_keys != 0).any(dim=-1, keepdim=True)
        alike.scatter_(2, rows[..., None], torch.ones_like(itself) if self.exact else itself)
        wide = features.to(compute_dtype(features.dtype))
        number = alike.sum(dim=2, keepdim=True)
        mean = alike.to(wide.dtype) @ wide / number.clamp_min(1)
        values = torch.where(number == 1, wide.new_zeros(()), mean - own) / 2 + own
        values = torch.where(number == 0, own.to(wide.dtype) / 2, values)
        best, slot = similarity.masked_fill(~(alike & is_kept[..., None]), -torch.inf).max(dim=1)
        slots = torch.where(best > -torch.inf, first + rows.gather(1, slot), -1)
        return values.to(features.dtype), slots


class Ranking(NamedTuple):
    """Tokens of each group, positions ``(G, L)``; the first ``candidates (G,)`` are unlike each other."""

    tokens: Tensor
    candidates: Tensor


def _keep_groups(groups: FrameGroups) -> Selection:
    """Every token of every group."""
    builder = SelectionBuilder(groups.tokens)
    slots = groups.grid_indices()
    builder.keep(slots)
    for chunk in groups.chunks(groups.tokens.dim):
        builder.set_values(slots[chunk], groups.features(chunk))
    groups.assign(builder, slots)
    return builder.build(groups.sizes, slots.numel())


def _scores(groups: FrameGroups) -> Tensor:
    """``(G,)``: mean cosine of each group with all groups."""
    tokens = groups.tokens
    if tokens.frame_features is None:
        wide = compute_dtype(tokens.features.dtype)
        rows = torch.cat([groups.features(chunk).mean(dim=-1, dtype=wide) for chunk in groups.chunks(tokens.dim)])
    else:
        rows = tokens.frame_features[torch.tensor(groups.first, device=tokens.features.device)]
    unit = normalize(rows)
    scores: Tensor = torch.linalg.vecdot(unit, unit.mean(dim=0))
    return scores


def _weights(scores: Tensor) -> Tensor:
    """Shares ``(G,)`` of the groups, given their mean similarities to all groups."""
    return torch.softmax((scores.mean() - scores) * len(scores) ** 0.5, dim=0)


def _cap(most: int, number: int, length: int) -> int:
    """The most tokens that a group gets: twice an equal share."""
    return min(length, max(1, 2 * (most // number)))


def _exact_counts(scores: Tensor, candidates: Sequence[int], total: int, length: int) -> list[int]:
    """Split ``total`` tokens: first over the candidates of groups up to their caps, then beyond, then over the rest."""
    weights = (_weights(scores.double()) / _SHARE_UNIT).round().clamp_min(1).tolist()
    cap = _cap(total, len(candidates), length)
    caps = [min(cap, number) for number in candidates]
    if sum(caps) < total:
        caps = list(candidates)
    if sum(caps) >= total:
        return proportional(total, weights, caps)
    rest = proportional(total - sum(caps), weights, [length - number for number in candidates])
    return [number + more for number, more in zip(candidates, rest, strict=True)]


def release_shares(scores: Tensor, total: int, length: int) -> list[int]:
    """Split ``total`` tokens as the release does; what is left by rounding down is not given to any group."""
    shares: list[int] = (_weights(scores) * total).floor().long().tolist()
    cap = _cap(total, len(shares), length)
    capped = {group for group, share in enumerate(shares) if share > cap}
    shares = [min(share, cap) for share in shares]
    while capped and len(capped) < len(shares):
        extra = max(0, total - sum(shares)) // (len(shares) - len(capped))
        if not extra:
            break
        shares = [share if group in capped else share + extra for group, share in enumerate(shares)]
        capped = {group for group, share in enumerate(shares) if share > cap}
        shares = [min(share, cap) for share in shares]
    return shares


def _redistribute(shares: list[int], candidates: Sequence[int]) -> list[int]:
    """Give what some groups have too few candidates for to the others, once; returns the tokens that each keeps."""
    if sum(candidates) > sum(shares):
        spare = sum(max(0, share - number) for share, number in zip(shares, candidates, strict=True))
        full = [number >= share for share, number in zip(shares, candidates, strict=True)]
        extra = spare // sum(full)
        shares = [share + extra if takes else share for share, takes in zip(shares, full, strict=True)]
    return [min(share, number) for share, number in zip(shares, candidates, strict=True)]


def _to_host(scores: Tensor, candidates: Tensor) -> tuple[Tensor, list[int]]:
    """Both on the host, in one transfer."""
    packed = torch.stack([scores.double(), candidates.double()]).cpu()
    return packed[0].to(scores.dtype), packed[1].long().tolist()
