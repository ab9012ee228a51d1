"""Checks of hyper-parameters, shared by all methods: one clear line for the first value out of its range."""

from math import isfinite
from numbers import Real

from ..errors import MethodError


def is_integer(value: object) -> bool:
    """Whether a value is an int and no bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise `MethodError` unless the value is one of the choices."""
    if value not in choices:
        raise MethodError(f"{name} must be one of {', '.join(choices)}, not {value!r}")


def check_number(name: str, value: object, low: float | None = None, high: float | None = None) -> None:
    """Raise `MethodError` unless the value is a finite number in [low, high]."""
    if (
        isinstance(value, bool)
        or not isinstance(value, Real)
        or not isfinite(value)
        or (low is not None and float(value) < low)
        or (high is not None and float(value) > high)
    ):
        bounds = " ".join([*([f">= {low}"] if low is not None else []), *([f"<= {high}"] if high is not None else [])])
        raise MethodError(f"{name} must be a finite number {bounds}, not {value!r}")


def check_flag(name: str, value: object) -> None:
    """Raise `MethodError` unless the value is a bool."""
    if not isinstance(value, bool):
        raise MethodError(f"{name} must be True or False, not {value!r}")


def check_integer(name: str, value: object, low: int) -> None:
    """Raise `MethodError` unless the value is an integer >= low."""
    if not is_integer(value) or value < low:  # type: ignore[operator] # an int here
        raise MethodError(f"{name} must be an integer >= {low}, not {value!r}")
