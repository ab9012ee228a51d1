"""The code of a model, to distinguish a changed model from the one that was checked.

The code of a release can change under the same version (a development checkout), and other libraries replace methods on
the classes of transformers.
"""

import hashlib
import sys
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType
from typing import Any

_OTHERS = frozenset({"torch", "builtins", "abc", "typing", "numpy"})
_LONG = 200
"""Strings of more characters are documentation."""


def code_of(model: Any) -> list[CodeType]:
    """All functions in the classes of a model's modules, in their base classes, and in their files of transformers."""
    classes = {parent for cls in set(map(type, model.modules())) for parent in cls.__mro__}
    owners: dict[tuple[str, str], Any] = {}
    for cls in classes:
        package = cls.__module__.split(".")[0]
        if package not in _OTHERS:
            owners[cls.__module__, cls.__qualname__] = cls
        # Only transformers: the functions of a notebook that defines a class change all the time.
        if package == "transformers" and cls.__module__ in sys.modules:
            owners[cls.__module__, ""] = sys.modules[cls.__module__]
    return [code for name in sorted(owners) for code in _codes(owners[name])]


def digest(codes: Iterable[CodeType]) -> str:
    """A digest of code, which is the same in every process with the same release of Python."""
    hashed = hashlib.sha256()
    for code in codes:
        hashed.update(f"{code.co_qualname} {code.co_names} {code.co_varnames}".encode())
        hashed.update(code.co_code)
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                hashed.update(digest([constant]).encode())
            elif isinstance(constant, frozenset):
                # The order of a set depends on the process.
                hashed.update(str(sorted(map(repr, constant))).encode())
            elif not (isinstance(constant, str) and len(constant) > _LONG):
                hashed.update(repr(constant).encode())
    return hashed.hexdigest()[:32]


def _codes(owner: Any) -> Iterator[CodeType]:
    for _, member in sorted(vars(owner).items(), key=lambda item: item[0]):
        function = member
        if isinstance(member, (staticmethod, classmethod)):
            function = member.__func__
        elif isinstance(member, property):
            function = member.fget
        while isinstance(function, FunctionType):
            yield function.__code__
            function = getattr(function, "__wrapped__", None)
