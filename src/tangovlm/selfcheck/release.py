"""The check that `attach` runs on a release of transformers that is not tested, once for each class of models."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from types import CodeType
from typing import TYPE_CHECKING, Any

import torch

from ..errors import ModelError
from ..models.common import transformers_compat
from . import result_cache, twins
from .code import code_of, digest
from .isolation import is_isolated, run_isolated

if TYPE_CHECKING:
    from ..methods.in_llm.common.base import InLLMMethod
    from .checks import Attach

_lock = threading.Lock()
# The failure, or "", by what was checked. The code objects are referenced so that no others can get their ids.
_results: dict[tuple[Any, ...], tuple[str, list[CodeType]]] = {}


def check_release(model: Any, method: InLLMMethod | None, attach: Attach) -> None:
    """On a release of transformers that is not tested, check that models of this class give the right answers.

    The checks of the family run on tiny twins of the class, on the CPU, isolated from the program (`run_isolated`).
    Modules of a twin get the classes of the model's modules where these are derived from their own. The result is
    cached in this process; success also in the user's cache folder, keyed by the versions of transformers, torch and
    tangovlm, the class, and the code of its modules. On a tested release nothing is done.

    Parameters
    ----------
    method: the method inside the language model, if any.
    attach: `tangovlm.attach`.

    Raises
    ------
    ModelError: a check fails.
    """
    import transformers

    release = transformers.__version__
    if transformers_compat.is_tested(release) or is_isolated():
        return
    names = twins.of_class(type(model))
    if not names:
        unknown = f"transformers {release} is not tested, and there is no check for {type(model).__name__} on it"
        warnings.warn(unknown, stacklevel=4)
        return
    inside = "" if method is None else method.name
    attention = "eager" if getattr(model.config, "_attn_implementation", None) == "eager" else "sdpa"
    code = code_of(model)
    key = (release, type(model), inside, attention, *map(id, code))
    with _lock:
        if key not in _results:
            record = {
                "transformers": release,
                "torch": torch.__version__,
                "tangovlm": import_module(__name__.partition(".")[0]).__version__,
                "family": twins.TWINS[names[0]].family,
                "model": type(model).__name__,
                "attention": attention,
                "inside": inside,
                "code": digest(code),
            }
            checks = partial(_run_checks, names, model, attention, inside, attach)
            _results[key] = _failure(record, checks), code
        failure, _ = _results[key]
    if failure:
        raise ModelError(
            f"transformers {release} is not a tested release, and {twins.TWINS[names[0]].architecture} fails "
            f"{failure}: "
            f"install the newest tested release (pip install 'transformers=={transformers_compat.newest_tested()}')"
        )


def reason(error: BaseException) -> str:
    """The message of an error in one line, with the name of its class unless it is a `Difference`."""
    from .checks import Difference

    message = " ".join(str(error).split())
    return message if isinstance(error, Difference) else f"{type(error).__name__}: {message}".removesuffix(": ")


def _failure(record: result_cache.Record, checks: Callable[[], str]) -> str:
    if result_cache.has_passed(record):
        return ""
    failure = run_isolated(checks)
    if not failure:
        result_cache.store(record)
    return failure


def _run_checks(names: Sequence[str], model: Any, attention: str, inside: str, attach: Attach) -> str:
    """The first check that fails, and the reason; "" if none fails."""
    from .checks import INSIDE, Checks

    # A user's own method is represented by the simplest one.
    methods = [inside if inside in INSIDE else "fastv"] if inside else []
    for name in names:
        check = "tiny model"
        try:
            twin = twins.load(name)(attention)
            _adopt_classes(twin.model, model)
            for check, run in Checks(twin, attach).all(methods).items():  # noqa: B007
                run()
        except Exception as error:
            return f"the check {check!r} on it ({reason(error)})"
    return ""


def _adopt_classes(twin: Any, model: Any) -> None:
    """Give modules of a twin the classes of a model's modules where these are subclasses, except of torch's own."""
    classes = {name: type(module) for name, module in model.named_modules()}
    for name, module in twin.named_modules():
        own, other = type(module), classes.get(name, object)
        if other is not own and issubclass(other, own) and own.__module__.split(".")[0] != "torch":
            module.__class__ = other
