"""A cache of passed checks in the user's cache folder: one small file for each, which says what was checked.

If the cache cannot be read or written, a check runs again.
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
"""What was checked: versions, model class, and everything else that the result depends on."""


def folder() -> Path:
    """The folder of the files: in `$XDG_CACHE_HOME`, or in the cache folder of the platform.

    Raises
    ------
    RuntimeError: the user has no home directory.
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
    """Whether `store` was called with this record; False if the file is damaged or cannot be read."""
    with suppress(OSError, RuntimeError, ValueError):
        file = _file(record)
        # Opening a pipe or a device could block.
        return file.is_file() and json.loads(file.read_text(encoding="utf-8")) == dict(record)
    return False


def store(record: Record) -> None:
    """Write the file of a passed check, atomically."""
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
