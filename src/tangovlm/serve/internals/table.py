"""The internals of vLLM that the plug-in uses: tables, which `compatibility` checks against the installed release.

Groups are in brackets, modules at the margin. Below a module are its classes, methods and functions, with their use:

    have     it exists
    hold     instances of the class have these attributes
    call     the plug-in calls it with these arguments; those after ``*`` are keyword arguments
    replace  the plug-in overrides it; vLLM calls it with exactly these arguments, or with others too after ``...``
    hook     vLLM calls it with these arguments, among others, which a hook of the plug-in reads
    use      the code of vLLM reads these attributes there, and so calls the plug-in

``self`` is left out. A method that is overridden and called by `super` is listed as "replace" only.
"""

import re
from dataclasses import dataclass
from functools import cache

from .general import GENERAL
from .models import MODELS

_CONTINUED = re.compile(r",\n\s+")


@dataclass(frozen=True)
class Internal:
    """A class, method or function of vLLM.

    Parameters
    ----------
    module, name: the module, and the qualified name within it.
    use: how the plug-in uses it, a word of the table.
    words: its arguments or attributes in the table.
    """

    module: str
    name: str
    use: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@cache
def groups() -> dict[str, tuple[Internal, ...]]:
    """Name of a group to its internals."""
    return parse_table(GENERAL + MODELS)


def parse_table(table: str) -> dict[str, tuple[Internal, ...]]:
    """Parse a table in the format described at the top of this module."""
    parsed: dict[str, tuple[Internal, ...]] = {}
    group = module = ""
    for line in filter(None, _CONTINUED.sub(", ", table).splitlines()):
        if line.startswith("["):
            group = line.strip("[]")
            parsed[group] = ()
        elif not line.startswith(" "):
            module = line
        else:
            use, entry = line.split(maxsplit=1)
            name, _, words = entry.partition("(")
            arguments = tuple(word.strip() for word in words.rstrip(")").split(",") if word.strip())
            parsed[group] += (Internal(module, name, use, arguments),)
    return parsed
