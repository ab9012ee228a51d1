"""Checks that passed, remembered in the user's cache folder: one small file for each, of what was checked.

Everything here may fail without harm: then the check runs once more.
"""

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

Record = Mapping[str, str]
"""What was checked: versions, model class, and what else the result depends on."""


def folder() -> Path:
    """Where the files are: `$XDG_CACHE_HOME`, or the platform's folder for caches.

    Raises
    ------
    RuntimeError: the user has no home.
    """
    chosen = os.environ.get("XDG_CACHE_HOME") or (os.environ.get("LOCALAPPDATA") if sys.platform == "win32" else None)
    if chosen:
        base = Path(chosen)
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path.home() / ".cache"
    return base / "tangovlm" / "checks"


def has_passed(record: Record) -> bool:
    """Whether `remember` was called with this record; a file that cannot be read or is damaged says nothing."""
    with suppress(OSError, RuntimeError, ValueError):
        file = _file(record)
        # Anything else might block.
        return file.is_file() and json.loads(file.read_text(encoding="utf-8")) == dict(record)
    return False


def remember(record: Record) -> None:
    """Write the file of a check that passed, at once or not at all."""
    with suppress(OSError, RuntimeError):
        file = _file(record)
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=file.parent, delete=False) as temporary:
            try:
                json.dump(dict(record), temporary)
                temporary.close()
                os.replace(temporary.name, file)
            except OSError:
                os.unlink(temporary.name)


def _file(record: Record) -> Path:
    digest = hashlib.sha256(json.dumps(dict(record), sort_keys=True).encode()).hexdigest()[:16]
    return folder() / f"{digest}.json"
