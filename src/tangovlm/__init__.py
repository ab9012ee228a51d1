"""Visual token pruning for Video LLMs: keep the few tokens that matter, and merge the rest into them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import _moved

_moved.install()
_import_error: Exception | None = None
try:
    from .errors import TangoError
    from .methods.build import method
    from .methods.milonga import Milonga
    from .methods.tango import Tango
    from .registry import methods
    from .session.attach import attach
    from .tokens import Report, Selection, VideoTokens
except (ImportError, OSError) as error:
    # If torch is missing or broken, `tangovlm doctor` must still start; any other use raises this error.
    _import_error = error

if TYPE_CHECKING:
    from .pipeline.ask import ask
    from .pipeline.load import load

__version__ = "0.1.0"
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
]


def __getattr__(name: str) -> Any:
    if _import_error is not None and name in __all__:
        raise ImportError(
            f"tangovlm cannot be used: {_import_error}; tangovlm doctor says what is missing"
        ) from _import_error
    # Resolved on first use: the pipeline imports transformers, which takes seconds.
    if name in {"ask", "load"}:
        return getattr(import_module(f"tangovlm.pipeline.{name}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
