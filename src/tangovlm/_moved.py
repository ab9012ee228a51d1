"""Old import paths of modules; they still work, with a `DeprecationWarning`."""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from importlib.abc import Loader

MOVED = {
    "tangovlm.evaluate.sinks": "tangovlm.inspection.sinks",
    "tangovlm.loading": "tangovlm.pipeline.load",
    "tangovlm.processor": "tangovlm.pipeline.processor",
}


class _MovedModule:
    """Finds and loads the modules of `MOVED`, as empty modules with the attributes of the new ones.

    It has the methods of `importlib.abc.MetaPathFinder` and `Loader`, but does not import their module, which takes as
    long as the package itself.
    """

    def find_spec(self, name: str, _path: Sequence[str] | None, _target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, cast("Loader", self)) if name in MOVED else None

    def create_module(self, _spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        new = MOVED[module.__name__]
        warnings.warn(f"{module.__name__} has moved to {new}", DeprecationWarning, stacklevel=2)
        vars(module)["__dir__"] = lambda: dir(import_module(new))
        vars(module)["__getattr__"] = lambda name: _attribute(import_module(new), name)


def _attribute(module: ModuleType, name: str) -> object:
    if name == "__all__" and not hasattr(module, name):
        # For `import *`.
        return [each for each in vars(module) if not each.startswith("_")]
    return getattr(module, name)


def install() -> None:
    """Make the old paths importable; called once, by the package."""
    sys.meta_path.append(_MovedModule())
