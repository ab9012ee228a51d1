"""Questions that are typed or piped to a command."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator


def typed() -> Iterator[str]:
    """Lines of standard input that are not blank; on a terminal with a prompt, on stderr.

    Bytes that are not UTF-8 become surrogates, which `check_question` refuses. A process without standard input has no
    lines.
    """
    if sys.stdin is None:
        return
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


def is_terminal() -> bool:
    """Whether a person types, who sees what was refused and can ask again."""
    return sys.stdin is not None and sys.stdin.isatty()
