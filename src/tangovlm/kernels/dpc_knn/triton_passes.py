"""The device code of `tangovlm.kernels.dpc_knn.triton`, which documents the layout of the points.

A program (block, share) processes one block of rows of one group, and every ``shares``-th tile of columns of that
group. A neighbour is an int64 key: the bits of its squared distance, which sort like the distance since it is never
negative, followed by its number. So the smallest key is the nearest point, and the lowest index wins a tie. Kernels are
not specialized on counts, so that another video does not trigger another compilation.
"""

import triton
import triton.language as tl

FURTHEST = 0x7F800000 << 32  # infinity
INDEX = 0xFFFFFFFF

_FURTHEST = tl.constexpr(FURTHEST)
_INDEX = tl.constexpr(INDEX)
_INFINITY = tl.constexpr(float("inf"))


@triton.jit
def quantise(points, scales, groups, numbers, parts, norms, dim, WIDTH: tl.constexpr, CHUNK: tl.constexpr):
    """Round one point to the grid of its group, and compute its squared norm; ``numbers`` indexes the points."""
    place = tl.program_id(0).to(tl.int64)
    row = tl.load(numbers + place)
    scale = tl.load(scales + tl.load(groups + row))
    total = tl.zeros((CHUNK,), tl.int64)
    for start in range(0, WIDTH, CHUNK):
        channel = start + tl.arange(0, CHUNK)
        value = tl.load(points + place * dim + channel, mask=channel < dim, other=0.0)
        whole = tl.floor(value * scale + 0.5).to(tl.int32)
        low = ((whole + 128) & 255) - 128
        rest = (whole - low) >> 8
        middle = ((rest + 128) & 255) - 128
        high = (rest - middle) >> 8
        to = parts + row * (3 * WIDTH) + channel
        tl.store(to, low.to(tl.int8), mask=channel < WIDTH)
        tl.store(to + WIDTH, middle.to(tl.int8), mask=channel < WIDTH)
        tl.store(to + 2 * WIDTH, high.to(tl.int8), mask=channel < WIDTH)
        wide = whole.to(tl.int64)
        total += wide * wide
    tl.store(norms + row, tl.sum(total, 0))


@triton.jit(do_not_specialize=["shares"])
def nearest(
    parts, norms, starts, block_starts, block_groups, lists, shares,
    WIDTH: tl.constexpr, SLOTS: tl.constexpr, NEIGHBORS: tl.constexpr, INCLUDE_SELF: tl.constexpr,
    BLOCK: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The keys of the nearest neighbours among this share of the columns, unsorted."""
    share = tl.program_id(1)
    _, start, stop, first = _place(starts, block_starts, block_groups, BLOCK)
    rows = first + tl.arange(0, BLOCK)
    from_rows = tl.minimum(rows, stop - 1)
    slot = tl.arange(0, SLOTS)
    # Slots beyond the neighbours are never the worst, so nothing takes their place; summarise() skips them.
    kept = tl.where(slot < NEIGHBORS, _FURTHEST + slot.to(tl.int64), -1)[None, :] + tl.zeros((BLOCK, SLOTS), tl.int64)
    for tile in range(share, tl.cdiv(stop - start, BLOCK), shares):
        columns = start + tile * BLOCK + tl.arange(0, BLOCK)
        distance = _squared(parts, norms, from_rows, tl.minimum(columns, stop - 1), WIDTH, BLOCK, CHANNELS)
        distance = tl.where(columns[None, :] < stop, distance, _INFINITY)
        if not INCLUDE_SELF:
            distance = tl.where(columns[None, :] != rows[:, None], distance, _INFINITY)
        least, at = tl.min(distance, 1, return_indices=True)
        key = _pack(least, start + tile * BLOCK + at)
        worst = tl.max(kept, 1)
        enters = least < _distance_of(worst)
        while tl.max(enters.to(tl.int32), 0) > 0:
            kept = tl.where((kept == worst[:, None]) & enters[:, None], key[:, None], kept)
            distance = tl.where(tl.arange(0, BLOCK)[None, :] == at[:, None], _INFINITY, distance)
            least, at = tl.min(distance, 1, return_indices=True)
            key = _pack(least, start + tile * BLOCK + at)
            worst = tl.max(kept, 1)
            enters = least < _distance_of(worst)
    to = lists + (rows[:, None] * shares + share) * SLOTS + slot[None, :]
    tl.store(to, kept, mask=(rows < stop)[:, None] & (slot >= 0)[None, :])


@triton.jit(do_not_specialize=["count", "width"])
def summarise(
    lists, nearest, spread, count, width,
    SLOTS: tl.constexpr, NEIGHBORS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The nearest neighbours of all shares in ascending order, and the mean of their squared distances.

    In ascending order, and in float64: points with equal neighbourhoods have equal densities.
    """
    rows = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    slot = tl.arange(0, SLOTS)
    mask = (rows < count)[:, None] & (slot < width)[None, :]
    keys = tl.load(lists + rows[:, None] * width + slot[None, :], mask=mask, other=_FURTHEST)
    keys = tl.where(keys < 0, _FURTHEST, keys)
    total = tl.zeros((BLOCK,), tl.float64)
    found = tl.zeros((BLOCK,), tl.int32)
    for place in range(NEIGHBORS):
        least = tl.min(keys, 1)
        tl.store(nearest + rows * NEIGHBORS + place, least, mask=rows < count)
        total += tl.where(least < _FURTHEST, _distance_of(least), 0.0).to(tl.float64)
        found += (least < _FURTHEST).to(tl.int32)
        keys = tl.where(keys == least[:, None], _FURTHEST, keys)
    tl.store(spread + rows, total / tl.maximum(found, 1).to(tl.float64), mask=rows < count)


@triton.jit(do_not_specialize=["count"])
def denser_neighbor(nearest, spread, separation, count, NEIGHBORS: tl.constexpr, BLOCK: tl.constexpr):
    """The squared distance to the nearest denser point in the list of neighbours, or infinity."""
    rows = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    own = tl.load(spread + rows, mask=rows < count, other=0.0)
    closest = tl.full((BLOCK,), _INFINITY, tl.float32)
    for place in range(NEIGHBORS):
        key = tl.load(nearest + rows * NEIGHBORS + place, mask=rows < count, other=_FURTHEST)
        other = key & _INDEX
        theirs = tl.load(spread + other, mask=key < _FURTHEST, other=_INFINITY)
        closest = tl.where(_denser(theirs, other, own, rows), tl.minimum(closest, _distance_of(key)), closest)
    tl.store(separation + rows, closest, mask=rows < count)


@triton.jit(do_not_specialize=["shares"])
def nearest_denser(
    parts, norms, starts, block_starts, block_groups, spread, order, counts, separation, shares,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The same among all points of the group, for the first ``counts`` rows of each group in ``order``."""
    group, start, stop, first = _place(starts, block_starts, block_groups, BLOCK)
    count = tl.load(counts + group)
    place = first + tl.arange(0, BLOCK)
    rows = tl.load(order + tl.minimum(place, stop - 1))
    own = tl.load(spread + rows)
    closest = tl.full((BLOCK,), _INFINITY, tl.float32)
    tiles = tl.where(first - start < count, tl.cdiv(stop - start, BLOCK), 0)
    for tile in range(tl.program_id(1), tiles, shares):
        columns = start + tile * BLOCK + tl.arange(0, BLOCK)
        distance = _squared(parts, norms, rows, tl.minimum(columns, stop - 1), WIDTH, BLOCK, CHANNELS)
        theirs = tl.load(spread + columns, mask=columns < stop, other=_INFINITY)
        denser = _denser(theirs[None, :], columns[None, :], own[:, None], rows[:, None])
        closest = tl.minimum(closest, tl.min(tl.where(denser, distance, _INFINITY), 1))
    tl.atomic_min(separation + rows, closest.to(tl.int32, bitcast=True), mask=place - start < count)


@triton.jit(do_not_specialize=["shares"])
def nearest_center(
    parts, norms, starts, block_starts, block_groups, center_starts, chosen, best, shares,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The key of the nearest centre; its number is the position in ``chosen``."""
    group, _, stop, first = _place(starts, block_starts, block_groups, BLOCK)
    first_center, last_center = tl.load(center_starts + group), tl.load(center_starts + group + 1)
    rows = first + tl.arange(0, BLOCK)
    from_rows = tl.minimum(rows, stop - 1)
    closest = tl.full((BLOCK,), _FURTHEST, tl.int64)
    for tile in range(tl.program_id(1), tl.cdiv(last_center - first_center, BLOCK), shares):
        center = first_center + tile * BLOCK + tl.arange(0, BLOCK)
        # Past the last centre, the last one is repeated; a later equal distance is never chosen.
        columns = tl.load(chosen + tl.minimum(center, last_center - 1))
        distance = _squared(parts, norms, from_rows, columns, WIDTH, BLOCK, CHANNELS)
        least, at = tl.min(distance, 1, return_indices=True)
        closest = tl.minimum(closest, _pack(least, first_center + tile * BLOCK + at))
    tl.atomic_min(best + rows, closest, mask=rows < stop)


@triton.jit
def _place(starts, block_starts, block_groups, BLOCK: tl.constexpr):
    """Group of this program, where the group starts and stops, and the first row of the block."""
    block = tl.program_id(0)
    group = tl.load(block_groups + block)
    start, stop = tl.load(starts + group), tl.load(starts + group + 1)
    return group, start, stop, start + (block - tl.load(block_starts + group)) * BLOCK


@triton.jit
def _squared(parts, norms, rows, columns, WIDTH: tl.constexpr, BLOCK: tl.constexpr, CHANNELS: tl.constexpr):
    """``|a|^2 + |b|^2 - 2ab`` of rows and columns, exact in int64, then rounded to float32."""
    channel = tl.arange(0, CHANNELS)
    a = parts + rows[:, None] * (3 * WIDTH) + channel[None, :]
    b = parts + columns[None, :] * (3 * WIDTH) + channel[:, None]
    # Sums of products of bytes of equal weight: at most 3 * 2^14 * D, below 2^31.
    sum0 = tl.zeros((BLOCK, BLOCK), tl.int32)
    sum1 = tl.zeros((BLOCK, BLOCK), tl.int32)
    sum2 = tl.zeros((BLOCK, BLOCK), tl.int32)
    sum3 = tl.zeros((BLOCK, BLOCK), tl.int32)
    sum4 = tl.zeros((BLOCK, BLOCK), tl.int32)
    for _ in range(0, WIDTH, CHANNELS):
        a0, a1, a2 = tl.load(a), tl.load(a + WIDTH), tl.load(a + 2 * WIDTH)
        b0, b1, b2 = tl.load(b), tl.load(b + WIDTH), tl.load(b + 2 * WIDTH)
        sum0 = tl.dot(a0, b0, sum0, out_dtype=tl.int32)
        sum1 = tl.dot(a0, b1, sum1, out_dtype=tl.int32)
        sum1 = tl.dot(a1, b0, sum1, out_dtype=tl.int32)
        sum2 = tl.dot(a0, b2, sum2, out_dtype=tl.int32)
        sum2 = tl.dot(a1, b1, sum2, out_dtype=tl.int32)
        sum2 = tl.dot(a2, b0, sum2, out_dtype=tl.int32)
        sum3 = tl.dot(a1, b2, sum3, out_dtype=tl.int32)
        sum3 = tl.dot(a2, b1, sum3, out_dtype=tl.int32)
        sum4 = tl.dot(a2, b2, sum4, out_dtype=tl.int32)
        a += CHANNELS
        b += CHANNELS
    high = (sum4.to(tl.int64) << 16) + (sum3.to(tl.int64) << 8) + sum2.to(tl.int64)
    product = (high << 16) + (sum1.to(tl.int64) << 8) + sum0.to(tl.int64)
    norm_a, norm_b = tl.load(norms + rows), tl.load(norms + columns)
    return (norm_a[:, None] + norm_b[None, :] - 2 * product).to(tl.float32)


@triton.jit
def _denser(theirs, other, own, row):
    """Whether a point of -log density ``theirs`` comes before one of ``own``."""
    return (theirs < own) | ((theirs == own) & (other < row))


@triton.jit
def _pack(distance, number):
    return (distance.to(tl.int32, bitcast=True).to(tl.int64) << 32) | number.to(tl.int64)


@triton.jit
def _distance_of(key):
    return (key >> 32).to(tl.int32).to(tl.float32, bitcast=True)
