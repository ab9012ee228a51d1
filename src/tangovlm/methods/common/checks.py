"""Checks shared by all methods: one clear line for the first value out of its range, or signal that is missing."""

from math import inf, isfinite
from numbers import Real

from torch import Tensor

from ...errors import InputError, MethodError
from ...tokens import VideoTokens


def is_integer(value: object) -> bool:
    """Whether a value is an int and no bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise `MethodError` unless the value is one of the choices."""
    if value not in choices:
        raise MethodError(f"{name} must be one of {', '.join(choices)}, not {value!r}")


def check_number(name: str, value: object, low: float = -inf, high: float = inf, *, above: bool = False) -> None:
    """Raise `MethodError` unless the value is a finite number in [low, high], or in (low, high] if `above`."""
    if isinstance(value, bool) or not isinstance(value, Real) or not _lies_in(value, low, high, above):
        raise MethodError(f"{name} must be a finite number{_bounds(low, high, above)}, not {value!r}")


def _lies_in(value: Real, low: float, high: float, above: bool) -> bool:
    try:
        number = float(value)
    except OverflowError:
        return False
    return isfinite(number) and low <= number <= high and not (above and number == low)


def _bounds(low: float, high: float, above: bool) -> str:
    if low == -inf:
        return "" if high == inf else f" <= {high:g}"
    if high == inf:
        return f" {'>' if above else '>='} {low:g}"
    return f" in {'(' if above else '['}{low:g}, {high:g}]"


def check_flag(name: str, value: object) -> None:
    """Raise `MethodError` unless the value is a bool."""
    if not isinstance(value, bool):
        raise MethodError(f"{name} must be True or False, not {value!r}")


def check_integer(name: str, value: object, low: int) -> None:
    """Raise `MethodError` unless the value is an integer >= low."""
    if not is_integer(value) or value < low:  # type: ignore[operator] # an int here
        raise MethodError(f"{name} must be an integer >= {low}, not {value!r}")


def required_saliency(method: object, tokens: VideoTokens) -> Tensor:
    """The saliency ``(T, H, W)`` of a video; `InputError` that names the method where there is none."""
    if tokens.saliency is None:
        raise InputError(
            f"{type(method).__name__} needs VideoTokens.saliency (T, H, W): pass it, or choose a method that needs none"
        )
    return tokens.saliency
