"""The model and the method that the arguments of `tangovlm.ask` name."""

from ..budget import validate_retention
from ..errors import InputError
from ..methods import build
from ..methods.build import Method
from ..session.attach import check_method

DEFAULT_RETENTION = 0.1


def resolve_method(method: str | Method, retention: float | None) -> Method:
    """A method by its name and a retention, or a method object unchanged.

    Raises
    ------
    InputError: a retention outside (0, 1], or another one than that of a method object.
    MethodError: see `tangovlm.method`; or not a method.
    """
    if isinstance(method, str):
        built: Method = build.method(method, retention=DEFAULT_RETENTION if retention is None else retention)
        return built
    check_method(method)
    if retention is not None and validate_retention(retention) != method.retention:
        raise InputError(
            f"retention={retention} is given, and the method object {method.name!r} has retention={method.retention}: "
            "leave the first out, or give it to the method"
        )
    return method
