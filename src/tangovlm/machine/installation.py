"""How this package was installed, and the command that adds one of its optional parts."""

import json
import shlex
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

_NAME = "tangovlm"
_CHECKOUT = Path(__file__).resolve().parents[3]


def install_command(extra: str) -> str:
    """The command that installs this package with an extra, from where it was installed before.

    It is valid in the working directory. From a checkout it is ``pip install '.[vllm]'`` there, and with the path of
    the checkout elsewhere. An editable installation stays one.
    """
    record = _installation_record()
    editable = "-e " if record.get("dir_info", {}).get("editable") else ""
    return f"pip install {editable}{shlex.quote(_requirement(extra, record))}"


def _installation_record() -> dict[str, Any]:
    """The file in which pip records an installation that is not from an index; empty otherwise."""
    try:
        record: dict[str, Any] = json.loads(distribution(_NAME).read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return {}
    return record


def _requirement(extra: str, record: dict[str, Any]) -> str:
    named = f"{_NAME}[{extra}]"
    checkout = _CHECKOUT if _is_checkout(_CHECKOUT) else None
    url = str(record.get("url", ""))
    if checkout is None and "dir_info" in record:
        folder = Path(url2pathname(urlsplit(url).path))
        checkout = folder if _is_checkout(folder) else None
    if checkout is not None:
        return f"{'.' if checkout == Path.cwd().resolve() else checkout}[{extra}]"
    if vcs := record.get("vcs_info"):
        return f"{named} @ {vcs['vcs']}+{url}@{vcs['commit_id']}"
    return f"{named} @ {url}" if "archive_info" in record else named


def _is_checkout(folder: Path) -> bool:
    return (folder / "pyproject.toml").is_file() and (folder / "src" / _NAME / "__init__.py").is_file()
