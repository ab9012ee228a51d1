"""Old import paths of modules directly below the package; they still work, with a `DeprecationWarning`."""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "tangovlm.loading": "tangovlm.pipeline.load",
    "tangovlm.processor": "tangovlm.pipeline.processor",
}


class _MovedModule(MetaPathFinder, Loader):
    """Finds and loads the modules of `MOVED`, as empty modules with the attributes of the new ones."""

    def find_spec(self, name: str, _path: Sequence[str] | None, _target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        new = MOVED[module.__name__]
        warnings.warn(f"{module.__name__} has moved to {new}", DeprecationWarning, stacklevel=2)
        vars(module)["__getattr__"] = lambda name: getattr(import_module(new), name)


def install() -> None:
    """Make the old paths importable; called once, by the package."""
    sys.meta_path.append(_MovedModule())
