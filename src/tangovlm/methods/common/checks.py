"""Validation of hyper-parameters: a one-line message for a value outside its range."""

from math import inf, isfinite
from numbers import Real

from ...errors import MethodError


def is_integer(value: object) -> bool:
    """Whether a value is an int other than a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise `MethodError` unless the value is one of the choices."""
    if value not in choices:
        raise MethodError(f"{name} must be one of {', '.join(choices)}, not {value!r}")


def check_number(name: str, value: object, low: float = -inf, high: float = inf, *, above: bool = False) -> None:
    """Raise `MethodError` unless the value is a finite number in [low, high], or in (low, high] if `above`."""
    if isinstance(value, bool) or not isinstance(value, Real) or not _is_between(value, low, high, above):
        raise MethodError(f"{name} must be a finite number{_bounds(low, high, above)}, not {value!r}")


def _is_between(value: Real, low: float, high: float, above: bool) -> bool:
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
    if not is_integer(value) or value < low:  # type: ignore[operator] # is an int
        raise MethodError(f"{name} must be an integer >= {low}, not {value!r}")
