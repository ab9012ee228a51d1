"""The check that `attach` runs on a release of transformers that is not tested, once for each class of models."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from types import CodeType
from typing import TYPE_CHECKING, Any

import torch

from ..errors import ModelError
from ..models.common import transformers_compat as versions
from . import passed, twins
from .code import code_of, digest
from .isolation import is_isolated, run_isolated

if TYPE_CHECKING:
    from ..methods.in_llm.common.base import InLLMMethod
    from .checks import Attach

_lock = threading.Lock()
# What fails, or "", by what was checked. The code objects are kept so that no others can get the ids in the keys.
_known: dict[tuple[Any, ...], tuple[str, list[CodeType]]] = {}


def check_release(model: Any, method: InLLMMethod | None, attach: Attach) -> None:
    """On a release of transformers that is not tested, see that models of this class answer as they should.

    The checks of the family run on tiny twins of the class, on the CPU, isolated from the program (`run_isolated`).
    Modules of a twin take the classes of the model's modules where these are derived from their own. The result is
    remembered in this process; success also in the user's cache folder, keyed by the versions of transformers, torch
    and tangovlm, the class, and the code of its modules. On a tested release nothing is done.

    Parameters
    ----------
    method: the one inside the language model that is to be attached, if any.
    attach: `tangovlm.attach`.

    Raises
    ------
    ModelError: a check fails.
    """
    import transformers

    release = transformers.__version__
    if versions.is_tested(release) or is_isolated():
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
        if key not in _known:
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
            _known[key] = _fault(record, partial(_run, names, model, attention, inside, attach)), code
        fault, _ = _known[key]
    if fault:
        raise ModelError(
            f"transformers {release} is not a tested release, and {twins.TWINS[names[0]].architecture} fails {fault}: "
            f"install the newest tested release (pip install 'transformers=={versions.newest_tested()}')"
        )


def reason(error: BaseException) -> str:
    """What an error says, in one line, with its kind where the words may need it."""
    from .checks import Difference

    words = " ".join(str(error).split())
    return words if isinstance(error, Difference) else f"{type(error).__name__}: {words}".removesuffix(": ")


def _fault(record: passed.Record, run: Any) -> str:
    if passed.has_passed(record):
        return ""
    fault: str = run_isolated(run)
    if not fault:
        passed.remember(record)
    return fault


def _run(names: Sequence[str], model: Any, attention: str, inside: str, attach: Attach) -> str:
    """Which check fails first, and how; "" if none does."""
    from .checks import INSIDE, Checks

    # One of somebody else's is represented by the simplest.
    methods = [inside if inside in INSIDE else "fastv"] if inside else []
    for name in names:
        check = "tiny model"
        try:
            twin = twins.load(name)(attention)
            _take_classes(twin.model, model)
            for check, run in Checks(twin, attach).all(methods).items():  # noqa: B007
                run()
        except Exception as error:
            return f"the check {check!r} on it ({reason(error)})"
    return ""


def _take_classes(twin: Any, model: Any) -> None:
    """Give modules of a twin the classes of a model's, where these are derived from their own and not torch's."""
    classes = {name: type(module) for name, module in model.named_modules()}
    for name, module in twin.named_modules():
        own, other = type(module), classes.get(name, object)
        if other is not own and issubclass(other, own) and own.__module__.split(".")[0] != "torch":
            module.__class__ = other
