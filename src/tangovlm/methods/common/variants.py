"""Named variants of a method: some of its settings are fixed, the others are the caller's."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ...errors import MethodError


def variant(cls: type, name: str, fixed: Mapping[str, Any], params: Mapping[str, Any]) -> Any:
    """Build a method with some settings fixed.

    Raises
    ------
    MethodError: a parameter that the method has not or that the variant fixes, or one out of its range.
    """
    accepted = {field.name for field in fields(cls) if field.init} - set(fixed)
    if unknown := sorted(set(params) - accepted):
        raise MethodError(
            f"{cls.__name__}.{name} has no parameter {unknown[0]!r}: it takes {', '.join(sorted(accepted))}"
        )
    return cls(**fixed, **params)


class PaperVariant(str):
    """The address of a method's paper. Called on the method's class, it builds the method as that text defines it.

    Parameters
    ----------
    address: of the paper.
    fixed: settings of the method in which the text differs from the default.

    Raises
    ------
    MethodError: when called; see `variant`.

    >>> from tangovlm import Tango
    >>> Tango.paper
    'https://arxiv.org/abs/2604.09547'
    >>> Tango.paper(retention=0.15).anchor_weight
    0.0
    """

    fixed: Mapping[str, Any]
    _owner: type

    def __new__(cls, address: str, fixed: Mapping[str, Any]) -> "PaperVariant":
        new = super().__new__(cls, address)
        new.fixed = fixed
        return new

    def __get__(self, _instance: Any, owner: type) -> "PaperVariant":
        bound = PaperVariant(str(self), self.fixed)
        bound._owner = owner
        return bound

    def __reduce__(self) -> Any:
        # Copied, it is an address.
        return str, (str(self),)

    def __call__(self, **params: Any) -> Any:
        return variant(self._owner, "paper", self.fixed, params)
