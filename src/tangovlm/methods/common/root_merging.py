"""Choosing tokens that are unlike each other: the later one of the most similar pair is removed, again and again."""

import heapq
from collections.abc import Sequence
from math import inf
from typing import NamedTuple

import torch
from torch import Tensor

# Similarities computed at a time, and how many of the most similar earlier tokens are stored for each token.
_TILE_ELEMENTS = (1 << 21, 1 << 26)
_STORED = 16
_UNKNOWN = -1

_Pair = tuple[float, int, int]
"""The negative similarity of two tokens, the earlier one or `_UNKNOWN`, and the later one; pairs are in this order."""


class Distinct(NamedTuple):
    """What is left of n tokens; int64 on the host.

    Parameters
    ----------
    kept: ``(keep,)`` indices, ascending.
    pairs: ``(n - keep, 2)``: in order of removal, the token of the pair that stayed and the one that was removed.
    """

    kept: Tensor
    pairs: Tensor


def most_distinct(unit: Tensor, keep: int) -> Distinct:
    """Remove the later token of the most similar pair until ``keep`` tokens, at least one, are left.

    Of equally similar pairs, the one with the lowest earlier token comes first, then that with the lowest later one.
    Only the most similar earlier tokens of each token are stored, and it is compared again once all of them have been
    removed, so that memory is O(n).

    Parameters
    ----------
    unit: ``(n, D)`` unit vectors.
    """
    removed = [False] * len(unit)
    partners = _Partners(unit)
    # The best pair of each token with an earlier one; an unknown partner comes before all others as similar.
    heap = partners.find(range(1, len(unit)), removed)
    heapq.heapify(heap)
    pairs: list[tuple[int, int]] = []
    while len(pairs) < len(unit) - keep:
        _, partner, token = heap[0]
        if partner == _UNKNOWN:
            again = sorted(pair[2] for pair in heap if pair[1] == _UNKNOWN)
            heap = [pair for pair in heap if pair[1] != _UNKNOWN] + partners.find(again, removed)
            heapq.heapify(heap)
        elif removed[partner]:
            heapq.heappop(heap)
            for pair in partners.next(token, removed):
                heapq.heappush(heap, pair)
        else:
            heapq.heappop(heap)
            removed[token] = True
            pairs.append((partner, token))
    kept = [index for index, gone in enumerate(removed) if not gone]
    return Distinct(torch.tensor(kept), torch.tensor(pairs, dtype=torch.int64).view(-1, 2))


class _Partners:
    """The most similar earlier tokens of each token, as far as they are stored."""

    def __init__(self, unit: Tensor) -> None:
        stored = min(_STORED, len(unit))
        self._unit = unit
        self._similarity = torch.empty(len(unit), stored, dtype=unit.dtype)
        self._partner = torch.empty(len(unit), stored, dtype=torch.int64)
        self._left: dict[int, tuple[float, list[tuple[float, int]]]] = {}

    def find(self, tokens: Sequence[int], removed: Sequence[bool]) -> list[_Pair]:
        """Compare tokens, ascending, with earlier ones that are left; returns the best pair of each that has one."""
        at_once = max(1, _TILE_ELEMENTS[self._unit.device.type != "cpu"] // len(self._unit))
        gone = torch.tensor(removed, device=self._unit.device)
        pairs = []
        for start in range(0, len(tokens), at_once):
            pairs += self._compare(tokens[start : start + at_once], gone)
        return pairs

    def _compare(self, tokens: Sequence[int], gone: Tensor) -> list[_Pair]:
        numbers = torch.tensor(tokens, device=gone.device)
        # All tokens are first compared together, and contiguous ones need not be copied.
        contiguous = tokens[-1] - tokens[0] + 1 == len(tokens)
        rows = self._unit[tokens[0] : tokens[-1] + 1] if contiguous else self._unit[numbers]
        similarity = rows @ self._unit[: tokens[-1]].T
        earlier = torch.arange(tokens[-1], device=gone.device)
        similarity.masked_fill_(gone[: tokens[-1]] | (earlier >= numbers[:, None]), -torch.inf)
        best, first = similarity.max(dim=1)
        values, partners = similarity.topk(min(_STORED, tokens[-1]), dim=1)
        rows_on_host = torch.tensor(tokens)
        self._similarity[rows_on_host] = -torch.inf
        self._similarity[rows_on_host, : values.shape[1]] = values.cpu()
        self._partner[rows_on_host, : values.shape[1]] = partners.cpu()
        for token in tokens:
            self._left.pop(token, None)
        found = zip(best.tolist(), first.tolist(), tokens, strict=True)
        return [(-value, partner, token) for value, partner, token in found if value > -inf]

    def next(self, token: int, removed: Sequence[bool]) -> list[_Pair]:
        """The next best pair of a token; none if all earlier tokens have been removed."""
        if token not in self._left:
            row = zip(self._similarity[token].tolist(), self._partner[token].tolist(), strict=True)
            known = sorted((-value, partner) for value, partner in row if value > -inf)
            bound = -known[-1][0] if len(known) == self._similarity.shape[1] else -inf
            # Of tokens as similar as the last one, others may be missing.
            self._left[token] = bound, [pair for pair in known if -pair[0] > bound][::-1]
        bound, left = self._left[token]
        while left:
            negative, partner = left.pop()
            if not removed[partner]:
                return [(negative, partner, token)]
        return [(-bound, _UNKNOWN, token)] if bound > -inf else []
