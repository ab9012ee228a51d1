"""The parts of a recording in each of which its clock runs on, from the times of the packets.

A clock that starts anew looks much like packets with damaged times, and one that jumps ahead like a picture that stands
still. Packets whose times follow each other are never taken for damaged, and what is damaged is counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median_low

# So many consecutive packets may have damaged times before the clock returns.
_DAMAGED_PACKETS = 3
# Damaged times are found only among at least so many distances.
_KNOWN = 3
# Frames are shown at most so many packets after their own: encoders reorder up to 16.
_REORDERED = 17
# Frames that are shown so many times as long as the median of those around them belong to a rate that varies.
_VARIES = 10


@dataclass(frozen=True)
class Stamp:
    """The times that a packet has in the file, in ticks.

    Parameters
    ----------
    keyframe: whether decoding can start at the packet.
    broken: whether packets of the container are missing in it, or before the next packet, by their numbers.
    """

    pts: int | None
    dts: int | None
    keyframe: bool = False
    broken: bool = False


@dataclass(frozen=True)
class ClockRules:
    """What is no continuous clock, in ticks.

    Parameters
    ----------
    wrap: after so many ticks the clock starts at 0 again; None: never.
    back: decoding times that decrease by more are a clock that starts anew.
    gap: decoding times that increase by more, beyond what is usual in the file, may be a jump; None: never.
    still: those that increase by more are a jump in any case; the increases between the two are a jump if something
        else than the times tells so.
    """

    wrap: int | None
    back: int
    gap: int | None
    still: int = 0


class ClockParts:
    """The parts of a file in each of which the clock runs on, from the decoding times.

    Attributes
    ----------
    starts: the packets at which a part begins, the first included.
    damaged: those with a damaged decoding time.
    """

    def __init__(self, stamps: Sequence[Stamp], rules: ClockRules) -> None:
        self._stamps, self._rules = stamps, rules
        known = [(order, stamp.dts) for order, stamp in enumerate(stamps) if stamp.dts is not None]
        self._orders = [order for order, _ in known]
        self._dts = [dts for _, dts in known]
        self.starts = [0]
        self.damaged = set[int]()
        self._find()

    def interval(self, part: range, otherwise: int) -> int:
        """The median distance of the decoding times of a part."""
        times = [dts for n in part if n not in self.damaged and (dts := self._stamps[n].dts) is not None]
        return _median_step(times) or otherwise

    def wrong_pts(self, part: range) -> set[int]:
        """The packets of a part with damaged presentation times.

        A frame is shown no earlier than it is decoded, and no later than the packets are decoded that follow it in the
        order of the file. At the end of a part it may follow a picture that stands still.
        """
        interval = self.interval(part, 0)
        lost = {n for n in part if n in self.damaged and not self._fits(n, part, interval)}
        gap = self._rules.gap
        if gap is None:
            return lost
        latest = [dts for n in part if n not in self.damaged and (dts := self._stamps[n].dts) is not None]
        place = -1
        for n in part:
            pts, dts = self._stamps[n].pts, self._stamps[n].dts
            if dts is None or n in self.damaged:
                continue
            place += 1
            following = latest[place : place + _REORDERED]
            slack = gap + _VARIES * interval + (self._rules.still if len(following) < _REORDERED else 0)
            if pts is not None and not dts - gap <= pts <= max(following) + slack:
                lost.add(n)
        return lost

    def _fits(self, order: int, part: range, interval: int) -> bool:
        """Whether the presentation time of a packet with a damaged decoding time is one that it may have."""
        pts = self._stamps[order].pts
        good: list[tuple[int, int, int]] = []
        for n in range(max(part.start, order - _REORDERED), min(part.stop, order + _REORDERED)):
            stamp = self._stamps[n]
            if n not in self.damaged and stamp.pts is not None and stamp.dts is not None:
                good.append((n, stamp.dts, stamp.pts))
        first = max((each for each in good if each[0] < order), default=None)
        last = min((each for each in good if each[0] > order), default=None)
        if pts is None or first is None or last is None or pts in (each[2] for each in good):
            return False
        delays = [shown - dts for _, dts, shown in good]
        delay = pts - first[1] - (last[1] - first[1]) * (order - first[0]) // (last[0] - first[0])
        return min(delays) - interval // 2 <= delay <= max(delays) + interval // 2

    # --- finding parts; an index counts the packets that have a decoding time ---------------------------------------

    def _find(self) -> None:
        good: list[int] = []  # of the current part
        index = 0
        while index < len(self._dts):
            order = self._orders[index]
            if not good:
                runs_on = True
            elif self._advances(good[-1], index):
                runs_on = not self._overlaps(order)
            elif self._was_damaged(good, index):
                self.damaged.add(self._orders[good.pop()])
                runs_on = True
            elif count := self._count_damaged(good, index):
                self.damaged.update(self._orders[index : index + count])
                index += count
                continue
            else:
                runs_on = self._stands_still(good[-1], index)
            if not runs_on:
                self.starts.append(order)
                good = []
            good.append(index)
            index += 1

    def _advances(self, last: int, index: int) -> bool:
        step = self._dts[index] - self._dts[last]
        gap = self._rules.gap
        if step < -self._rules.back or gap is None or step <= gap:
            return step >= -self._rules.back
        return step <= self._limit(index)

    def _limit(self, index: int) -> int:
        """The largest increase that is usual at a packet: the rate may be low, and vary."""
        before = range(max(0, index - _REORDERED), index)
        after = range(index, min(index + _REORDERED, len(self._dts)))
        return (self._rules.gap or 0) + _VARIES * max(self._usual(before), self._usual(after))

    def _usual(self, indices: Sequence[int], least: int = 1) -> int:
        """The median distance of the last few of these packets; 0 if there are fewer than `least` distances."""
        return _median_step([self._dts[index] for index in indices[-_REORDERED:]], least)

    def _overlaps(self, order: int) -> bool:
        """Whether a packet begins a part, although it is decoded later than the packets before.

        What follows a keyframe is shown later than what precedes it. Parts that overlap by few frames repeat times.
        """
        if self._rules.gap is None or not self._stamps[order].keyframe:
            return False
        orders = range(max(self.starts[-1], order - _REORDERED), order)
        before = [pts for n in orders if n not in self.damaged and (pts := self._stamps[n].pts) is not None]
        after: list[int] = []
        last: int | None = None
        for stamp in self._stamps[order : order + _REORDERED]:
            if last is not None and stamp.dts is not None and stamp.dts < last:
                break
            last = last if stamp.dts is None else stamp.dts
            after.extend([] if stamp.pts is None else [stamp.pts])
        if not before or not after or (latest := max(before)) < (earliest := min(after)):
            return False
        early, late = sum(pts < latest for pts in after), sum(pts > earliest for pts in before)
        return not set(before).isdisjoint(after) or min(early, late) > 1  # a single one may be damaged

    def _was_damaged(self, good: list[int], index: int) -> bool:
        """Whether the clock went too far with the last packet, and is now where it would be without that."""
        if len(good) < 2 or self._dts[index] >= self._dts[good[-1]]:
            return False
        return self._counts(self._dts[index] - self._dts[good[-2]], 1, self._usual(good[:-1], _KNOWN))

    def _count_damaged(self, good: list[int], index: int) -> int:
        """How many packets from one on have damaged times: the clock returns as if it had counted them.

        Packets whose times follow each other are a part instead, whatever the clock does after it.
        """
        last, before = self._dts[good[-1]], self._usual(good, _KNOWN)
        for count in range(1, min(_DAMAGED_PACKETS, len(self._dts) - 1 - index) + 1):
            back = index + count
            after = self._usual(range(back, min(back + _REORDERED, len(self._dts))), _KNOWN)
            if not before or not after or 0 <= 2 * (self._dts[back] - self._dts[back - 1]) <= 3 * max(before, after):
                return 0
            if any(last <= dts <= self._dts[back] for dts in self._dts[index:back]):
                continue
            gone = self._dts[back] - last
            # A part begins with a keyframe. The rate of other frames may vary.
            varies = not self._stamps[self._orders[index]].keyframe and 2 * gone > (2 * count + 1) * before
            if self._counts(gone, count, before) or (varies and self._advances(good[-1], back)):
                return count
        return 0

    def _counts(self, gone: int, count: int, step: int) -> bool:
        return (2 * count + 1) * step < 2 * gone < (2 * count + 3) * step

    def _stands_still(self, last: int, index: int) -> bool:
        """Whether an unusual increase of the decoding times is a picture that is shown so long."""
        order, dts = self._orders[index], self._dts[index]
        following, limit = self._dts[index + 1 : index + _REORDERED], self._limit(index)
        if dts < self._dts[last] or any(0 <= later - self._dts[last] <= limit for later in following):
            return False  # The clock was ahead for a few packets only.
        shown = max([dts, *following]) + limit
        before = self._stamps[max(self.starts[-1], order - _REORDERED) : order]
        if any(dts <= stamp.pts <= shown for stamp in before if stamp.pts is not None):
            return True  # The encoder, which reorders frames, has seen both sides.
        around = self._stamps[max(0, order - 3) : order + 2]
        if dts - self._dts[last] > self._rules.still or any(stamp.broken for stamp in around):
            return False
        # In a stream with reordered frames the presentation time would have jumped before the decoding time.
        pts = self._stamps[order].pts
        return not (self._stamps[order].keyframe and pts is not None and pts > dts)


def _median_step(times: Sequence[int], least: int = 1) -> int:
    """The median of the distances that are positive; 0 if there are fewer than `least`."""
    steps = [step for a, b in pairwise(times) if (step := b - a) > 0]
    return median_low(steps) if len(steps) >= least else 0
