"""How reports describe counts, segments, layers, times and notes."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby


def change(before: int, after: int, kind: str = "tokens") -> str:
    """Such as "6272 -> 627 tokens (10.0 %)"."""
    return f"{before} -> {after} {kind} ({100 * after / before:.1f} %)"


def describe_segments(segments: tuple[int, ...]) -> str:
    """Such as "2 segments of 8 and 24 frames"; the range of lengths if there are many."""
    if len(segments) == 1:
        return f"1 segment of {segments[0]} frames" if segments[0] > 1 else "1 segment of 1 frame"
    sizes = f"{', '.join(map(str, segments[:-1]))} and {segments[-1]}"
    if len(segments) > 8:
        sizes = f"{min(segments)} to {max(segments)}"
    return f"{len(segments)} segments of {sizes} frames"


def describe_layers(tokens: tuple[int, ...]) -> str:
    """Such as "627 tokens in layers 0-17, 313 tokens in layers 18-27"."""
    parts, first = [], 0
    for number, layers in groupby(tokens):
        last = first + len(list(layers)) - 1
        tokens_in = f"{number} token{'s' * (number != 1)} in "
        parts.append(tokens_in + (f"layer {first}" if first == last else f"layers {first}-{last}"))
        first = last + 1
    return ", ".join(parts)


def list_times(timings_ms: Mapping[str, float]) -> list[str]:
    """Such as ["encode 812.4 ms", "prune 21.1 ms"]."""
    return [f"{stage} {time:.1f} ms" for stage, time in timings_ms.items()]


def list_notes(notes: Iterable[str]) -> list[str]:
    """A line for each note."""
    return [f"note: {note}" for note in notes]


def describe_first_pass(groups: Sequence[int], layers: int) -> str:
    """What a pass before the prefill read."""
    return f"first pass: {sum(groups)} tokens, groups: {len(groups)}, layers: {layers}"


def count_media(media: Sequence[str]) -> str:
    """How many videos and images.

    >>> count_media(["video", "image", "image"])
    '1 video, 2 images'
    """
    counts = [(kind, media.count(kind)) for kind in ("video", "image") if kind in media]
    return ", ".join(f"{count} {kind}{'s' * (count > 1)}" for kind, count in counts)
