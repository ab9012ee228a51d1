"""Fast Video LLMs: keep the few visual tokens that matter, merge the rest into them, change nothing else."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_broken: Exception | None = None
try:
    from .errors import TangoError
    from .methods.build import method
    from .methods.tango import Tango
    from .registry import methods
    from .session.attach import attach
    from .tokens import Report, Selection, VideoTokens
except (ImportError, OSError) as error:
    # Where torch is missing or broken, `tangovlm doctor` must still start; what is used says so.
    _broken = error

if TYPE_CHECKING:
    from .pipeline.ask import ask
    from .pipeline.load import load

__version__ = "0.1.0"
__all__ = [
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
    if _broken is not None and name in __all__:
        raise ImportError(f"tangovlm cannot be used: {_broken}; tangovlm doctor says what is missing") from _broken
    # The pipeline needs transformers, which takes seconds to import: it is resolved on first use. `attach` cannot be,
    # since the import of its module by another one would bind the module to the name of the function.
    if name in {"ask", "load"}:
        return getattr(import_module(f"tangovlm.pipeline.{name}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
