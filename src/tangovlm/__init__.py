"""Visual token pruning for Video LLMs: keep the few tokens that matter, and merge the rest into them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Imported before the function of the same name, which an import of the package later on would replace.
from . import _moved
from . import methods as _methods_package  # noqa: F401
from .errors import TangoError
from .registry import methods

if TYPE_CHECKING:
    from .methods.build import method
    from .methods.milonga import Milonga
    from .methods.tango import Tango
    from .pipeline.ask import ask
    from .pipeline.load import load
    from .session.attach import attach
    from .streaming.begin import stream
    from .tokens import Report, Selection, VideoTokens

_moved.install()

__version__ = "0.2.0"
__all__ = [
    "Milonga",
    "Report",
    "Selection",
    "Tango",
    "TangoError",
    "VideoTokens",
    "__version__",
    "ask",
    "attach",
    "load",
    "method",
    "methods",
    "stream",
]

_MODULES = {
    "Milonga": "methods.milonga",
    "Report": "tokens",
    "Selection": "tokens",
    "Tango": "methods.tango",
    "VideoTokens": "tokens",
    "ask": "pipeline.ask",
    "attach": "session.attach",
    "load": "pipeline.load",
    "method": "methods.build",
    "stream": "streaming.begin",
}
"""The modules of the names that are resolved on first use, because they import torch or transformers."""


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        try:
            return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        except (ImportError, OSError) as error:
            raise ImportError(f"tangovlm cannot be used: {error}; tangovlm doctor says what is missing") from error
    if not name.startswith("_"):
        from importlib.util import find_spec

        if find_spec(f"{__name__}.{name}") is not None:
            return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
