"""Methods by name and model families by architecture; the source of every list of them.

Methods and families register themselves with a decorator. Their packages are imported on the first look-up, so that
adding a method or a family means adding its file, and importing this module imports none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, TypeVar

from .errors import MethodError, ModelError

C = TypeVar("C", bound=type)

_METHOD_PACKAGES = ("tangovlm.methods", "tangovlm.methods.in_llm")
_FAMILY_PACKAGES = ("tangovlm.models",)

_methods: dict[str, type] = {}
_families: dict[str, Any] = {}


def register_method(cls: C) -> C:
    """Class decorator: register a method under its ``name``.

    Raises
    ------
    MethodError: the class has no name, or another class has it.
    """
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not name:
        raise MethodError(f"method class {cls.__qualname__} needs a class attribute `name`")
    if not _same(_methods.setdefault(name, cls), cls):
        raise MethodError(f"method name {name!r} is taken by {_methods[name].__qualname__}: choose another")
    return cls


def methods() -> dict[str, type]:
    """All registered methods, from name to class, sorted by name.

    Examples
    --------
    >>> import tangovlm
    >>> tangovlm.methods()["tango"] is tangovlm.Tango
    True
    >>> [name for name, cls in tangovlm.methods().items() if cls.stage == "pre-llm" and "keys" in cls.needs]
    ['unicomp', 'visionzip']
    """
    _load(_METHOD_PACKAGES)
    return dict(sorted(_methods.items()))


def register_family(*architectures: str) -> Callable[[C], C]:
    """Class decorator: register a family for model classes of these names (as in ``config.architectures``).

    Raises
    ------
    ModelError: another family is registered for one of them.
    """

    def register(cls: C) -> C:
        for architecture in architectures:
            if not _same(_families.setdefault(architecture, cls), cls):
                raise ModelError(
                    f"architecture {architecture!r} is taken by {_families[architecture].__qualname__}: "
                    f"register {cls.__qualname__} under another name"
                )
        return cls

    return register


def families() -> dict[str, Any]:
    """All supported architectures, from name to family class, sorted by name."""
    _load(_FAMILY_PACKAGES)
    return dict(sorted(_families.items()))


def find_family(model: object) -> Any:
    """As `family_for`, but None if the architecture is not supported."""
    known = families()
    return next((known[cls.__name__] for cls in type(model).__mro__ if cls.__name__ in known), None)


def family_for(model: object) -> Any:
    """The family class of a loaded model, by its class or a parent class, or of an architecture's name.

    The name may be that of a larger model, of which one of the family is a part, as checkpoints name it.

    Raises
    ------
    ModelError: the architecture is not supported, or the model is such a larger one.
    """
    names = [model] if isinstance(model, str) else [cls.__name__ for cls in type(model).__mro__]
    known = families()
    for name in names:
        if name in known:
            return known[name]
    for family in known.values():
        for whole in set(names) & set(getattr(family, "wholes", ())):
            if isinstance(model, str):
                return family
            raise ModelError(
                f"only a part of {whole} can be attached: attach model.{family.wholes[whole]}, and have it generate"
            )
    raise ModelError(
        f"unsupported architecture {names[0]}: supported are {', '.join(known) or 'none'}; `tangovlm models --explain "
        "MODEL` says what another one lacks"
    )


def nearest(name: str, known: Iterable[str], cutoff: float = 0.4) -> str:
    """A suggestion for the end of a message: the known name most similar to a mistaken one, "" if there is none."""
    import difflib

    matches = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def _same(one: type, other: type) -> bool:
    """Whether two classes have the same definition: a module may be imported more than once."""
    return (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)


@cache
def _load(packages: tuple[str, ...]) -> None:
    """Import every module of the packages once, so that their decorators run."""
    import importlib
    import importlib.util
    import pkgutil

    for package in packages:
        if importlib.util.find_spec(package) is None:
            continue
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__, package + "."):
            importlib.import_module(module.name)
