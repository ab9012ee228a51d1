"""The frame size that stock processors choose for models that accept any: whole tokens, an area within two bounds.

A preprocessor config calls the bounds `shortest_edge` and `longest_edge`, but both are areas in pixels. For some models
they apply to a frame, for others to all frames of a video together.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..errors import InputError, ModelError
from .pixels import flag, unresized, whole

LIMIT = "max_frame_pixels"
"""Field of a preprocessor config that this library adds: the largest area of a frame, height times width."""

_STEEPEST = 200


def with_limit(config: Mapping[str, Any], max_frame_pixels: int, token_side: int) -> Mapping[str, Any]:
    """A preprocessor config whose frames have at most an area.

    Parameters
    ----------
    max_frame_pixels: height times width.
    token_side: side of a token in pixels.

    Raises
    ------
    InputError: the area of a token is larger.
    """
    least = token_side**2
    if max_frame_pixels < least:
        raise InputError(
            f"max_frame_pixels is {max_frame_pixels}, but a token has {least} pixels: it is an area, such as 448 * 448"
        )
    return {**config, LIMIT: max_frame_pixels}


def resizes(config: Mapping[str, Any], height: int, width: int, token_side: int) -> bool:
    """Whether a preprocessor config resizes frames of this size.

    Raises
    ------
    InputError: it does not, and the frames are no whole number of tokens high and wide.
    """
    if flag(config, "do_resize"):
        return True
    if height % token_side or width % token_side:
        raise unresized(height, width, f"multiples of {token_side} pixels")
    return False


@dataclass(frozen=True)
class SizeRule:
    """The rule of a model's stock video processor, with its defaults.

    Parameters
    ----------
    least, most: areas in pixels, if the preprocessor config has none.
    of: what they bound: a "frame"; all frames of a "video", counted in whole steps; or "shared": `least` applies to a
        frame, and `most` to all frames of a video, which share it equally.
    old_names: whether `min_pixels` and `max_pixels` of the config take precedence over its `size`.
    cap_tokens: tokens from which `cap_pixels_per_frame` of a config computes a bound; 0 if there is no such field.
    """

    least: int
    most: int
    of: Literal["frame", "video", "shared"] = "frame"
    old_names: bool = False
    cap_tokens: int = 0

    def read(self, config: Mapping[str, Any]) -> "SizeRule":
        """The rule with the areas of a preprocessor config.

        Raises
        ------
        ModelError: the config has no valid areas.
        """
        size = config.get("size")
        size = {"shortest_edge": self.least, "longest_edge": self.most} if size is None else size
        if not isinstance(size, Mapping):
            raise ModelError(f"the preprocessor config has size {size!r}: shortest_edge and longest_edge are required")
        areas = dict(size)
        for name, old in (("shortest_edge", "min_pixels"), ("longest_edge", "max_pixels")) if self.old_names else ():
            if config.get(old) is not None:
                areas[name] = config[old]
        if areas.get("shortest_edge") is None or areas.get("longest_edge") is None:
            raise ModelError(f"the preprocessor config has size {size!r}: shortest_edge and longest_edge are required")
        least, most = (whole(name, areas[name]) for name in ("shortest_edge", "longest_edge"))
        return replace(self, least=least, most=most)

    def size(
        self, config: Mapping[str, Any], height: int, width: int, frames: int, unit: int, per_step: int
    ) -> tuple[int, int]:
        """Height and width, multiples of `unit`, for the frames of a video.

        Parameters
        ----------
        config: preprocessor config, see `read`, `cap_pixels_per_frame` and `LIMIT`.
        height, width: of the frames in pixels.
        frames: number of frames of the video.
        unit: side of a token in pixels.
        per_step: frames of a step; the last one is repeated to fill it.

        Raises
        ------
        InputError: one side is more than 200 times as long as the other.
        ModelError: see `read`.
        """
        rule = self.read(config)
        frames = max(frames, per_step) if self.of == "video" else frames
        least, most = rule.least, rule._capped(config, frames, unit, per_step)
        if self.of == "shared":
            most //= frames
        if (limit := config.get(LIMIT)) is not None:
            most = min(most, whole(LIMIT, limit) * (frames if self.of == "video" else 1))
            least = min(least, most)
        if self.of != "video":
            return _fit(height, width, unit, least, most)
        # Very small frames are enlarged to one token first.
        scale = max(unit / height, unit / width)
        sides = (int(height * scale), int(width * scale)) if scale > 1 else (height, width)
        return _fit(*sides, unit, least, most, frames, round(frames / per_step) * per_step)

    def _capped(self, config: Mapping[str, Any], frames: int, unit: int, per_step: int) -> int:
        """`most`, or less if the config asks for an equal share of a budget of tokens."""
        if not self.cap_tokens or not config.get("cap_pixels_per_frame"):
            return self.most
        given = config.get("max_video_tokens")
        tokens = self.cap_tokens if given is None else whole("max_video_tokens", given)
        floor = int(self.least * 1.05)
        if self.of == "video":
            return frames * max(min(tokens * unit * unit, self.most // frames), floor)
        return max(min(self.most, int(tokens * unit * unit * 0.9) * per_step // frames), floor)


def fit_into(height: int, width: int, unit: int, area: int) -> tuple[int, int]:
    """The largest multiples of `unit` with about the same aspect ratio, within an area (Gemma 4).

    Raises
    ------
    InputError: the frame is too narrow for a whole number of tokens.

    >>> fit_into(720, 1280, 48, 70 * 48 * 48)
    (288, 528)
    """
    # In the order of operations of the stock processor, as the last bit may decide about a token.
    factor = math.sqrt(area / (height * width))
    sides = (math.floor(factor * height / unit) * unit, math.floor(factor * width / unit) * unit)
    longest = area // unit**2 * unit
    if sides[0] == 0:
        sides = (unit, min(width // height * unit, longest))
    elif sides[1] == 0:
        sides = (min(height // width * unit, longest), unit)
    if not 0 < sides[0] * sides[1] <= area:
        raise InputError(f"frames of {height} x {width} pixels do not fit into {area // unit**2} tokens: scale them")
    return sides


def _fit(
    height: int, width: int, unit: int, least: int, most: int, frames: int = 1, counted: int = 1
) -> tuple[int, int]:
    """Sides rounded to multiples of `unit`; if their area times `counted` is out of bounds, both are scaled."""
    if max(height, width) > _STEEPEST * min(height, width):
        raise InputError(
            f"frames of {height} x {width} pixels are too narrow: one side may be {_STEEPEST} times the other at most"
        )
    sides = (round(height / unit) * unit, round(width / unit) * unit)
    area = counted * sides[0] * sides[1]
    # In the order of operations of the stock processors, as the last bit may decide about a token.
    if area > most:
        shrink = math.sqrt((frames * height * width) / most)
        return _at_least(unit, height / shrink, unit), _at_least(unit, width / shrink, unit)
    if area < least:
        grow = math.sqrt(least / (frames * height * width))
        return math.ceil(height * grow / unit) * unit, math.ceil(width * grow / unit) * unit
    return sides


def _at_least(bound: int, length: float, unit: int) -> int:
    return max(bound, math.floor(length / unit) * unit)
