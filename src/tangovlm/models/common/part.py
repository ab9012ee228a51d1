"""How a family is composed: a part is a class of its own, declared on the family and bound to it on access."""

from __future__ import annotations

from typing import Any, Generic, TypeVar, overload

P_co = TypeVar("P_co", bound="FamilyPart", covariant=True)


class FamilyPart:
    """Base class of the parts of a family.

    A part is created on every access, so it keeps no state: what is to last belongs to the family.

    Parameters
    ----------
    family: the family, bound to a model.
    """

    # A `Family`, which imports the parts. A part for some families names their class.
    family: Any

    def __init__(self, family: Any) -> None:
        self.family = family

    @property
    def model(self) -> Any:
        """The stock model."""
        return self.family.model


class Part(Generic[P_co]):
    """Declares a part of a family.

    On the family class it is the part's class, whose class attributes can be read without a model; on a family that is
    bound to a model it is an instance.

    Examples
    --------
    >>> class Greeting(FamilyPart):
    ...     word = "hello"
    >>> class Example:
    ...     greeting = Part(Greeting)
    >>> Example.greeting.word
    'hello'
    >>> example = Example()
    >>> example.greeting.family is example
    True
    """

    def __init__(self, cls: type[P_co]) -> None:
        self._cls = cls

    @overload
    def __get__(self, family: None, owner: type) -> type[P_co]: ...

    @overload
    def __get__(self, family: object, owner: type) -> P_co: ...

    def __get__(self, family: Any, owner: type) -> P_co | type[P_co]:
        return self._cls if family is None else self._cls(family)
