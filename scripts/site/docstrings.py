"""An extension of Griffe that reads this project's docstrings.

They underline the titles of sections as NumPy's do, and describe an entry on its line, as Google's do:

    Parameters
    ----------
    retention: fraction to keep, in (0, 1].

The extension rewrites the sections in Google's format, which Griffe then reads.
"""

import re
import textwrap
from typing import Any

import griffe

_SECTION = re.compile(r"^(\w[\w ]*)\n-{3,}\n", re.MULTILINE)
_NAMES = re.compile(r"^(\w+(?:,\s+\w+)+): ")
_TITLES = {"Class attributes": "Attributes"}
_ENTRIES = ("Parameters", "Attributes", "Raises")
_ENTRY = re.compile(r"^[*\w]+(,\s+\w+)*: | ")
_EXAMPLE = re.compile(r"^(?=>>> )", re.MULTILINE)


def as_google(text: str) -> str:
    """The docstring with its sections in Google's format.

    Several names before one description become entries of their own, of which the first has the description. Examples
    that follow the text become a section.

    >>> print(as_google("Scale a number.\\n\\nParameters\\n----------\\nx, y: numbers.\\n\\n>>> scale(1, 2)\\n2\\n"))
    Scale a number.
    <BLANKLINE>
    Parameters:
        x: numbers.
        y: see `x`.
    <BLANKLINE>
    Examples:
        >>> scale(1, 2)
        2
    """
    first, *rest = _SECTION.split(text)
    sections = list(zip(rest[::2], rest[1::2], strict=True))
    if not any(title == "Examples" for title, _ in sections):
        body = sections[-1][1] if sections else first
        before, *examples = _EXAMPLE.split(body, maxsplit=1)
        if examples:
            if sections:
                sections[-1] = (sections[-1][0], before)
            else:
                first = before
            sections.append(("Examples", examples[0]))
    parts = [first.strip()]
    for title, body in sections:
        title = _TITLES.get(title, title)
        paragraphs = body.strip("\n").split("\n\n")
        # Text that follows the entries of a section.
        after = [] if title not in _ENTRIES else [each for each in paragraphs if not _ENTRY.match(each)]
        body = "\n\n".join(each for each in paragraphs if each not in after)
        if title in _ENTRIES[:2]:
            body = _one_name_each(body)
        parts += [f"{title}:\n{textwrap.indent(body, '    ')}", *after]
    return "\n\n".join(parts)


def _one_name_each(body: str) -> str:
    entries = re.split(r"^(?=\S)", body, flags=re.MULTILINE)
    single = []
    for entry in entries:
        if names := _NAMES.match(entry):
            name, *others = re.split(r",\s+", names[1])
            single.append(f"{name}: {entry[names.end() :].rstrip()}\n")
            single += [f"{other}: see `{name}`.\n" for other in others]
        else:
            single.append(entry)
    return "".join(single).rstrip("\n")


class Docstrings(griffe.Extension):
    """Rewrites every docstring when it is read."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_google(obj.docstring.value)
