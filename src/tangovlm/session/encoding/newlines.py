"""Newlines that a model inserts into a video: how many remain, and how a budget can include them.

LLaVA-Video has one after every row of the grid, which remains if the row keeps a token. At a retention of 10 % most
rows do, so that the language model reads about 14 % of the unpruned features.
"""

from dataclasses import fields, is_dataclass, replace
from typing import Any

from ...budget import count
from ...errors import InputError, MethodError
from ...methods.in_llm.common.base import InLLMMethod
from ...methods.in_llm.common.first_pass import FirstPassMethod
from ...models.common.family import Family
from ...models.common.layout import Grid
from ...tokens import Selection, VideoTokens

NEWLINES = ("kept", "counted")


def check_newlines(newlines: object, pruner: Any, inside: InLLMMethod | None) -> None:
    """Raise `InputError` for an unknown value, `MethodError` for methods that cannot count newlines.

    Parameters
    ----------
    pruner: the method before the language model, if any.
    inside: the method inside it, if any.
    """
    if newlines not in NEWLINES:
        raise InputError(f"newlines is {newlines!r}: choose {' or '.join(map(repr, NEWLINES))}")
    if newlines == "counted" and isinstance(inside, FirstPassMethod):
        raise MethodError(
            f"newlines='counted' is not possible with {inside.name!r}, which ranks tokens only: leave it out"
        )
    if newlines == "counted" and pruner is not None and "retention" not in _field_names(pruner):
        raise MethodError(f"newlines='counted' sets the retention of {pruner!r}, which has no such field: leave it out")


def select_with_newlines(pruner: Any, tokens: VideoTokens, family: Family, grid: Grid) -> Selection:
    """The largest selection that fits the budget together with the newlines that remain for it.

    The budget is ``budget.count(retention, R)`` of the R features of a video, newlines included. Which newlines remain
    depends on the tokens, so the method runs several times.

    Parameters
    ----------
    pruner: a method before the language model, a dataclass with a field `retention`.

    Raises
    ------
    InputError: a budget that holds no token besides the newlines that always remain.
    """
    budget = count(pruner.retention, family.layout.feature_count(grid))
    fits, too_many = 0, min(budget, tokens.count) + 1
    best: Selection | None = None
    newlines = 0
    while too_many - fits > 1:
        # One token more or less seldom changes the newlines; where it does, bisection finds the limit.
        guess = budget - newlines if fits < budget - newlines < too_many else (fits + too_many) // 2
        selection = _select(pruner, guess, tokens)
        newlines = family.layout.newlines(selection, grid)
        total = selection.indices.numel() + newlines
        if total <= budget:
            fits, best = guess, selection
        else:
            too_many = guess
        if total == budget:
            break
    if best is None:
        raise InputError(
            f"a budget of {budget} holds no token besides the newlines that remain: raise the retention, or exclude "
            "newlines from it with newlines='kept'"
        )
    return best


def _select(pruner: Any, number: int, tokens: VideoTokens) -> Selection:
    """The selection of `number` tokens; thresholds that depend on the method's retention stay as they are."""
    changes = {"retention": number / tokens.count}
    if "equivalent_retention" in _field_names(pruner):
        changes["equivalent_retention"] = pruner.equivalent_retention or pruner.retention
    selection: Selection = replace(pruner, **changes)(tokens)
    return selection


def _field_names(pruner: Any) -> set[str]:
    is_instance = is_dataclass(pruner) and not isinstance(pruner, type)
    return {field.name for field in fields(pruner) if field.init} if is_instance else set()
