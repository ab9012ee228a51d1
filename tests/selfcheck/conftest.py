"""A release of transformers that is not tested, with nothing remembered of it."""

from pathlib import Path

import pytest

from tangovlm.selfcheck import release
from tangovlm.selfcheck.twins import twins

UNKNOWN = "5.99.0"


@pytest.fixture
def unknown_release(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of the user's cache."""
    # Importing models makes the module transformers anew.
    twins()
    monkeypatch.setattr("transformers.__version__", UNKNOWN)
    monkeypatch.setattr(release, "_known", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"
