"""Clocks of made recordings: parts joined in every way, damaged times, low and varying rates."""

from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from tangovlm.video.continuity import ClockRules, Continuous, Stamp, continuous

SECOND = 90_000
RULES = ClockRules(wrap=1 << 33, back=0, gap=10 * SECOND, still=600 * SECOND)
STEPS = [SECOND // 50, SECOND // 25, SECOND, 12 * SECOND, 20 * SECOND, 60 * SECOND]


@dataclass(frozen=True)
class Part:
    """A recording as an encoder writes it.

    Parameters
    ----------
    shown: when each frame is shown, in order.
    b_frames: before each frame that others refer to.
    gop: keyframes are so many of these frames apart.
    """

    shown: tuple[int, ...]
    b_frames: int
    gop: int

    def order(self) -> list[int]:
        """The frames in decoding order."""
        order, done = [], 0
        while done < len(self.shown):
            last = min(done + self.b_frames, len(self.shown) - 1) if order and len(order) % self.gop else done
            order += [last, *range(done, last)]
            done = last + 1
        return order

    def stamps(self, start: int) -> list[Stamp]:
        """The first frame is decoded at `start`."""
        delay = 0 if self.b_frames == 0 else 1
        step = self.shown[1] - self.shown[0] if len(self.shown) > 1 else SECOND // 25
        decoded = [self.shown[0] - step * back for back in range(delay, 0, -1)] + list(self.shown)
        shift = start - decoded[0]
        order = self.order()
        keys = [place for place in range(len(order)) if place == 0 or (order[place] == place and place % self.gop == 0)]
        return [
            Stamp(self.shown[frame] + shift, decoded[place] + shift, place in keys) for place, frame in enumerate(order)
        ]


@st.composite
def parts(draw: st.DrawFn, least: int = 1, steps: list[int] = STEPS) -> Part:
    count, step = draw(st.integers(least, 40)), draw(st.sampled_from(steps))
    return Part(tuple(step * i for i in range(count)), draw(st.integers(0, 3)), draw(st.integers(1, 12)))


def shown(stamps: list[Stamp]) -> list[int]:
    """The presentation times of all frames, in order."""
    return sorted(stamp.pts for stamp in stamps if stamp.pts is not None)


def step_of(part: Part, otherwise: int) -> int:
    return part.shown[1] - part.shown[0] if len(part.shown) > 1 else otherwise


def in_order_of_the_file(joined: list[Part], interval: int) -> list[tuple[int, int]]:
    """(time, part) of all frames, the first at 0: each part one interval of the part before after its last frame."""
    frames, end = [], 0
    for number, part in enumerate(joined):
        frames += [(end + time - part.shown[0], number) for time in part.shown]
        interval = step_of(part, interval)
        end += part.shown[-1] - part.shown[0] + interval
    return frames


def result(stamps: list[Stamp], interval: int) -> Continuous:
    found = continuous(stamps, RULES, interval)
    return found or Continuous([stamp.pts for stamp in stamps], 0)


def joined_stamps(joined: list[Part], data: st.DataObject) -> tuple[list[Stamp], list[int]]:
    """Parts of which each begins before the end of the one before, and the part of each packet; times of 33 bits."""
    stamps: list[Stamp] = []
    owners: list[int] = []
    for number, part in enumerate(joined):
        if not stamps:
            start = data.draw(st.integers(0, (1 << 33) - 1))
        else:
            # The first frame is decoded, and shown, no later than the last one of the part before.
            lead = part.stamps(0)[0].pts or 0
            last, late = stamps[-1].dts or 0, shown(stamps[owners.index(number - 1) :])[-1]
            frames = data.draw(st.integers(0, 5) | st.integers(0, 1000))
            start = min(last - 1, late - lead) - frames * step_of(part, SECOND // 25) - data.draw(st.integers(0, 1800))
        stamps += part.stamps(start)
        owners += [number] * len(part.shown)
    return [wrapped(stamp) for stamp in stamps], owners


def wrapped(stamp: Stamp) -> Stamp:
    assert stamp.pts is not None and stamp.dts is not None
    return replace(stamp, pts=stamp.pts % (1 << 33), dts=stamp.dts % (1 << 33))


@settings(max_examples=60)
@given(st.lists(parts(), min_size=1, max_size=4), st.data())
def test_parts_that_begin_before_the_end_of_the_one_before(joined: list[Part], data: st.DataObject) -> None:
    """By any number of frames, from one on; also parts of one to three frames."""
    stamps, owners = joined_stamps(joined, data)
    interval = step_of(joined[0], SECOND // 25)
    found = result(stamps, interval)
    assert (found.damaged, found.jumps) == (0, len(joined) - 1)
    times = [time for time in found.pts if time is not None]
    frames = sorted((time - min(times), number) for time, number in zip(times, owners, strict=True))
    assert frames == in_order_of_the_file(joined, interval)


@settings(max_examples=60)
@given(st.lists(parts(least=20), min_size=2, max_size=4), st.data())
def test_parts_that_begin_long_after_the_end_of_the_one_before(joined: list[Part], data: st.DataObject) -> None:
    """The packets are not numbered on, or reordered frames begin at once, or the gap is one of hours."""
    stamps: list[Stamp] = []
    owners: list[int] = []
    usual = max(step_of(part, 0) for part in joined)
    for number, part in enumerate(joined):
        broken = data.draw(st.booleans())
        start = data.draw(st.integers(0, 1 << 31))
        if stamps:
            least = 11 * SECOND + 20 * usual
            if not (broken or part.b_frames):
                least = 3600 * SECOND
            stamps[-1] = replace(stamps[-1], broken=broken)
            start = shown(stamps)[-1] + data.draw(st.integers(least, least + 1000 * SECOND))
        stamps += part.stamps(start)
        owners += [number] * len(part.shown)
    found = result([wrapped(stamp) for stamp in stamps], SECOND)
    assert (found.damaged, found.jumps) == (0, len(joined) - 1)
    times = [time for time in found.pts if time is not None]
    frames = sorted((time - min(times), number) for time, number in zip(times, owners, strict=True))
    assert frames == in_order_of_the_file(joined, SECOND)


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 25) | st.integers(1, 500 * 25), min_size=1, max_size=80),
    st.integers(0, 3),
    st.integers(1, 12),
    st.integers(0, 1 << 32),
)
def test_frames_that_are_shown_for_long(lasts: list[int], b_frames: int, gop: int, start: int) -> None:
    """Up to minutes each, at any distance of each other."""
    times = [0]
    for frames in lasts:
        times.append(times[-1] + frames * SECOND // 25)
    part = Part(tuple(times), b_frames, gop)
    assert continuous(part.stamps(start), RULES, SECOND // 25) is None


@settings(max_examples=60)
@given(
    parts(least=40),
    st.integers(5, 34),
    st.sampled_from([(True, False), (False, True), (True, True)]),
    st.integers(0, 32),
    st.integers(0, 1 << 31),
)
def test_a_packet_with_damaged_times(part: Part, place: int, fields: tuple[bool, bool], bit: int, start: int) -> None:
    """One bit is wrong. No other frame is lost, and none has another time, except where a jump is said."""
    healthy = part.stamps(start)
    stamps = list(healthy)
    pts, dts = (healthy[place].pts or 0), (healthy[place].dts or 0)
    stamps[place] = replace(stamps[place], pts=pts ^ (fields[0] << bit), dts=dts ^ (fields[1] << bit))
    found = result(stamps, SECOND // 25)
    lost = [n for n, time in enumerate(found.pts) if time is None]
    assert lost == [place] * found.damaged
    if not found.jumps:
        others = [n for n in range(len(stamps)) if n != place]
        assert [found.pts[n] for n in others] == [healthy[n].pts for n in others]
