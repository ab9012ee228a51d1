"""Compare an internal of another library with its description, by signatures and byte code; none of it is run."""

import dis
import inspect
from collections.abc import Callable, Iterator
from importlib import import_module
from types import CodeType, FunctionType
from typing import Any

from .table import Internal


def find_problem(internal: Internal) -> str:
    """What is wrong with an internal, such as "has no ...", to follow the name of the release; "" if nothing is."""
    try:
        part = import_module(internal.module)
    except Exception as error:
        # Importing a module may raise any error.
        reason = " ".join(str(error).split()) or type(error).__name__
        return f"has no module {internal.module} that can be imported ({reason})"
    for name in internal.name.split("."):
        if not hasattr(part, name):
            return f"has no {internal}"
        part = getattr(part, name)
    try:
        wrong = _CHECKS[internal.use](part, internal.words)
    except (AttributeError, TypeError, ValueError) as error:
        # It is no longer a class or a function.
        wrong = f"that is not what it was ({error})"
    return f"has a {internal} {wrong}" if wrong else ""


def _check_call(function: Callable[..., Any], words: tuple[str, ...]) -> str:
    by_position, named, _ = _split(words)
    parameters = _parameters(function)
    others = [each for each in parameters if each.default is each.empty and each.kind not in _ANY_NUMBER]
    if wrong := _difference(_positional(parameters)[: len(by_position)], by_position):
        return wrong
    if missing := [name for name in named if not _accepts_keyword(parameters, name)]:
        return f"without {missing[0]!r}"
    if needed := [each.name for each in others if each.name not in (*by_position, *named)]:
        return f"that needs {needed[0]!r} too"
    return ""


def _check_replaced(function: Callable[..., Any], words: tuple[str, ...]) -> str:
    by_position, named, open_ended = _split(words)
    parameters = _parameters(function)
    positional = _positional(parameters)
    by_name = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
    if wrong := _difference(positional[: len(by_position)] if open_ended else positional, by_position):
        return wrong
    return "" if open_ended else _difference(sorted(by_name), sorted(named))


def _check_hooked(function: Callable[..., Any], words: tuple[str, ...]) -> str:
    names = [each.name for each in _parameters(function)]
    return next((f"without {word!r}" for word in words if word not in names), "")


def _check_attributes(cls: type, words: tuple[str, ...]) -> str:
    attributes = _instance_attributes(cls)
    return next((f"without {word!r}" for word in words if word not in attributes), "")


def _check_reads(function: Callable[..., Any], words: tuple[str, ...]) -> str:
    read = {name for code in _codes(function) for name in code.co_names}
    return next((f"that does not ask for {word!r}" for word in words if word not in read), "")


_CHECKS: dict[str, Callable[[Any, tuple[str, ...]], str]] = {
    "have": lambda _part, _words: "",
    "call": _check_call,
    "replace": _check_replaced,
    "hook": _check_hooked,
    "hold": _check_attributes,
    "use": _check_reads,
}
"""Use of an internal to a function that returns what is wrong with it, to follow its name."""
_ANY_NUMBER = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _split(words: tuple[str, ...]) -> tuple[list[str], list[str], bool]:
    """Positional arguments, keyword arguments, and whether others are allowed."""
    names = [word for word in words if word != "..."]
    border = names.index("*") if "*" in names else len(names)
    return names[:border], names[border + 1 :], "..." in words


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    parameters = list(inspect.signature(function).parameters.values())
    return parameters[1:] if parameters and parameters[0].name == "self" else parameters


def _positional(parameters: list[inspect.Parameter]) -> list[str]:
    return [each.name for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]


def _accepts_keyword(parameters: list[inspect.Parameter], name: str) -> bool:
    return any(
        each.kind is each.VAR_KEYWORD
        or (each.name == name and each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY))
        for each in parameters
    )


def _difference(names: list[str], expected: list[str]) -> str:
    return "" if names == expected else f"that takes ({', '.join(names)}) and not ({', '.join(expected)})"


def _instance_attributes(cls: type) -> set[str]:
    """Attributes of the instances of a class: those of the class, its fields, and what its constructors assign."""
    attributes = set(dir(cls))
    for base in cls.__mro__:
        attributes |= set(getattr(base, "__dataclass_fields__", ()))
        for constructor in ("__init__", "__post_init__"):
            for code in _codes(vars(base).get(constructor)):
                attributes |= {step.argval for step in dis.get_instructions(code) if step.opname == "STORE_ATTR"}
    return attributes


def _codes(function: Any) -> Iterator[CodeType]:
    """Code objects of a function, of the functions that it wraps, and of those defined in it."""
    pending, visited = [function], set()
    while pending:
        function = pending.pop()
        if id(function) in visited or not isinstance(function, FunctionType):
            continue
        visited.add(id(function))
        yield from _nested(function.__code__)
        # A decorator refers to the decorated function in one of two ways.
        pending += [getattr(function, "__wrapped__", None), *inspect.getclosurevars(function).nonlocals.values()]


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)
