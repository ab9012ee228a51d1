"""The command that installs an optional part, for every way to install the package."""

import json
import shlex
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tangovlm.machine import installation
from tangovlm.machine.installation import install_command


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that looks like a checkout, with a space in its name."""
    folder = tmp_path / "a checkout"
    (folder / "src" / "tangovlm").mkdir(parents=True)
    (folder / "src" / "tangovlm" / "__init__.py").touch()
    (folder / "pyproject.toml").touch()
    return folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is in no checkout, and neither is the working directory."""
    monkeypatch.setattr(installation, "_CHECKOUT", tmp_path / "site-packages")
    monkeypatch.chdir(tmp_path)


def installed(monkeypatch: pytest.MonkeyPatch, record: dict[str, Any] | str | None) -> None:
    """Let pip's record be this one; None if the package is installed from an index."""
    text = json.dumps(record) if isinstance(record, dict) else record
    monkeypatch.setattr(installation, "distribution", lambda _name: SimpleNamespace(read_text=lambda _file: text))


@pytest.mark.parametrize("record", [None, "{", {"url": "file:///no/such/folder", "dir_info": {}}])
def test_from_an_index(monkeypatch: pytest.MonkeyPatch, record: Any) -> None:
    installed(monkeypatch, record)
    assert install_command("vllm") == "pip install 'tangovlm[vllm]'"


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(installation, "distribution", missing)
    assert install_command("ray") == "pip install 'tangovlm[ray]'"


@pytest.mark.parametrize(("info", "option"), [({}, []), ({"editable": True}, ["-e"])])
def test_from_a_checkout(
    monkeypatch: pytest.MonkeyPatch, checkout: Path, info: dict[str, bool], option: list[str]
) -> None:
    installed(monkeypatch, {"url": checkout.as_uri(), "dir_info": info})
    assert shlex.split(install_command("vllm")) == ["pip", "install", *option, f"{checkout}[vllm]"]
    monkeypatch.chdir(checkout)
    assert install_command("vllm") == f"pip install {''.join(f'{word} ' for word in option)}'.[vllm]'"


def test_a_checkout_on_the_path_of_python(monkeypatch: pytest.MonkeyPatch, checkout: Path) -> None:
    installed(monkeypatch, None)
    monkeypatch.setattr(installation, "_CHECKOUT", checkout)
    assert shlex.split(install_command("report")) == ["pip", "install", f"{checkout}[report]"]
    monkeypatch.chdir(checkout)
    assert install_command("report") == "pip install '.[report]'"


@pytest.mark.parametrize(
    ("record", "requirement"),
    [
        (
            {"url": "https://a/b.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "tangovlm[vllm] @ git+https://a/b.git@abc",
        ),
        ({"url": "file:///a.whl", "archive_info": {}}, "tangovlm[vllm] @ file:///a.whl"),
    ],
)
def test_from_a_repository_and_from_a_wheel(
    monkeypatch: pytest.MonkeyPatch, record: dict[str, Any], requirement: str
) -> None:
    installed(monkeypatch, record)
    assert shlex.split(install_command("vllm")) == ["pip", "install", requirement]
