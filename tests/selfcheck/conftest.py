"""A release of transformers that is not tested, without cached results."""

from pathlib import Path

import pytest

from tangovlm.selfcheck import release
from tangovlm.selfcheck.twins import twins

UNKNOWN = "5.99.0"


@pytest.fixture
def unknown_release(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of the user's cache."""
    # Importing models replaces the module `transformers`.
    twins()
    monkeypatch.setattr("transformers.__version__", UNKNOWN)
    monkeypatch.setattr(release, "_results", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"
