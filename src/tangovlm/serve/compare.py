"""Whether a part of another library is as `seams` has it, told from signatures and from code, which does not run."""

import dis
import inspect
from collections.abc import Callable, Iterator
from importlib import import_module
from types import CodeType, FunctionType
from typing import Any

from .seams import Seam


def problem(seam: Seam) -> str:
    """What is wrong with a part, such as "has no ...", to stand behind the name of the release; "" for nothing."""
    try:
        found = import_module(seam.module)
    except Exception as error:
        # What a module runs when it is imported may raise anything.
        reason = " ".join(str(error).split()) or type(error).__name__
        return f"has no module {seam.module} that can be imported ({reason})"
    for name in seam.name.split("."):
        if not hasattr(found, name):
            return f"has no {seam}"
        found = getattr(found, name)
    try:
        wrong = _CHECKS[seam.use](found, seam.words)
    except (AttributeError, TypeError, ValueError) as error:
        # What was a class or a function is something else.
        wrong = f"that is not what it was ({error})"
    return f"has a {seam} {wrong}" if wrong else ""


def _of_call(function: Callable[..., Any], words: tuple[str, ...]) -> str:
    given, named, _ = _split(words)
    parameters = _parameters(function)
    others = [each for each in parameters if each.default is each.empty and each.kind not in _ANY_NUMBER]
    if wrong := _compared(_positional(parameters)[: len(given)], given):
        return wrong
    if missing := [name for name in named if not _takes_by_name(parameters, name)]:
        return f"without {missing[0]!r}"
    if needed := [each.name for each in others if each.name not in (*given, *named)]:
        return f"that needs {needed[0]!r} too"
    return ""


def _of_replaced(function: Callable[..., Any], words: tuple[str, ...]) -> str:
    given, named, open_ended = _split(words)
    parameters = _parameters(function)
    positional = _positional(parameters)
    by_name = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
    if wrong := _compared(positional[: len(given)] if open_ended else positional, given):
        return wrong
    return "" if open_ended else _compared(sorted(by_name), sorted(named))


def _of_hooked(function: Callable[..., Any], words: tuple[str, ...]) -> str:
    names = [each.name for each in _parameters(function)]
    return next((f"without {word!r}" for word in words if word not in names), "")


def _of_class(kind: type, words: tuple[str, ...]) -> str:
    held = _held(kind)
    return next((f"without {word!r}" for word in words if word not in held), "")


def _of_use(function: Callable[..., Any], words: tuple[str, ...]) -> str:
    read = {name for code in _codes(function) for name in code.co_names}
    return next((f"that does not ask for {word!r}" for word in words if word not in read), "")


_CHECKS: dict[str, Callable[[Any, tuple[str, ...]], str]] = {
    "have": lambda _part, _words: "",
    "call": _of_call,
    "replace": _of_replaced,
    "hook": _of_hooked,
    "hold": _of_class,
    "use": _of_use,
}
"""Each takes the part, and gives what is wrong with it, to stand behind its name."""
_ANY_NUMBER = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _split(words: tuple[str, ...]) -> tuple[list[str], list[str], bool]:
    """Arguments by place, arguments by name, and whether more may come."""
    names = [word for word in words if word != "..."]
    border = names.index("*") if "*" in names else len(names)
    return names[:border], names[border + 1 :], "..." in words


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    found = list(inspect.signature(function).parameters.values())
    return found[1:] if found and found[0].name == "self" else found


def _positional(parameters: list[inspect.Parameter]) -> list[str]:
    return [each.name for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]


def _takes_by_name(parameters: list[inspect.Parameter], name: str) -> bool:
    return any(
        each.kind is each.VAR_KEYWORD
        or (each.name == name and each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY))
        for each in parameters
    )


def _compared(found: list[str], known: list[str]) -> str:
    return "" if found == known else f"that takes ({', '.join(found)}) and not ({', '.join(known)})"


def _held(kind: type) -> set[str]:
    """Attributes of the instances of a class: its own, its fields, and what its constructors assign."""
    held = set(dir(kind))
    for base in kind.__mro__:
        held |= set(getattr(base, "__dataclass_fields__", ()))
        for constructor in ("__init__", "__post_init__"):
            for code in _codes(vars(base).get(constructor)):
                held |= {step.argval for step in dis.get_instructions(code) if step.opname == "STORE_ATTR"}
    return held


def _codes(function: Any) -> Iterator[CodeType]:
    """The code of a function, of those that it stands in front of, and of those that are defined in it."""
    waiting, seen = [function], set()
    while waiting:
        function = waiting.pop()
        if id(function) in seen or not isinstance(function, FunctionType):
            continue
        seen.add(id(function))
        yield from _nested(function.__code__)
        # A decorator keeps what it decorates in either place.
        waiting += [getattr(function, "__wrapped__", None), *inspect.getclosurevars(function).nonlocals.values()]


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)
