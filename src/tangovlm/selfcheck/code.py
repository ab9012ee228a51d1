"""The code that a model runs, by which one that was changed is told from the one that was checked.

A release can change under the same version (a checkout that goes on), and libraries put methods of their own on the
classes of transformers.
"""

import hashlib
import sys
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType
from typing import Any

_OTHERS = frozenset({"torch", "builtins", "abc", "typing", "numpy"})
_LONG = 200
"""Characters of a string that is a text for people."""


def code_of(model: Any) -> list[CodeType]:
    """Of all functions in the classes of the model's modules, in their parents, and in transformers' own files."""
    classes = {parent for cls in set(map(type, model.modules())) for parent in cls.__mro__}
    owners: dict[tuple[str, str], Any] = {}
    for cls in classes:
        package = cls.__module__.split(".")[0]
        if package not in _OTHERS:
            owners[cls.__module__, cls.__qualname__] = cls
        # The functions of a notebook, which may hold classes too, change all the time.
        if package == "transformers" and cls.__module__ in sys.modules:
            owners[cls.__module__, ""] = sys.modules[cls.__module__]
    return [code for name in sorted(owners) for code in _codes(owners[name])]


def digest(codes: Iterable[CodeType]) -> str:
    """The same in every process with this release of Python, for the same code."""
    found = hashlib.sha256()
    for code in codes:
        found.update(f"{code.co_qualname} {code.co_names} {code.co_varnames}".encode())
        found.update(code.co_code)
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                found.update(digest([constant]).encode())
            elif isinstance(constant, frozenset):
                # Its order depends on the process.
                found.update(str(sorted(map(repr, constant))).encode())
            elif not (isinstance(constant, str) and len(constant) > _LONG):
                found.update(repr(constant).encode())
    return found.hexdigest()[:32]


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
