"""Newlines that a model puts behind the rows of a video: how many stay, and how a budget can hold them too.

LLaVA-Video has one behind every row of the grid, which stays if its row keeps a token. At 10 % of the tokens most rows
do, and with their newlines the language model gets about 14 % of what it would get unpruned.
"""

from dataclasses import fields, is_dataclass, replace
from typing import Any

from ..budget import count
from ..errors import InputError, MethodError
from ..models.common.family import Family
from ..models.common.layout import Grid
from ..tokens import Selection, VideoTokens

NEWLINES = ("kept", "counted")


def check_newlines(newlines: object, pruner: Any) -> None:
    """Raise `InputError` for an unknown way, `MethodError` for a method whose retention cannot be changed."""
    if newlines not in NEWLINES:
        raise InputError(f"newlines is {newlines!r}: choose {' or '.join(map(repr, NEWLINES))}")
    if newlines == "counted" and pruner is not None and "retention" not in _settings(pruner):
        raise MethodError(f"newlines='counted' sets the retention of {pruner!r}, which has no such field: leave it out")


def with_newlines(pruner: Any, tokens: VideoTokens, family: Family, grid: Grid) -> Selection:
    """What a method keeps so that its tokens, with the newlines that stay for them, are within its budget.

    The budget is ``budget.count(retention, R)`` of the R features of a video, newlines among them. Which newlines stay
    depends on the tokens, so that the method runs several times; one token more would not fit.

    Parameters
    ----------
    pruner: a method before the language model, a dataclass with a field `retention`.

    Raises
    ------
    InputError: a budget that holds no token beside the newlines that always stay.
    """
    budget = count(pruner.retention, family.feature_count(grid))
    fits, too_many = 0, min(budget, tokens.count) + 1
    best: Selection | None = None
    newlines = 0
    while too_many - fits > 1:
        # Newlines hardly depend on a token more or less; where they do, halving finds the border.
        guess = budget - newlines if fits < budget - newlines < too_many else (fits + too_many) // 2
        selection = _keeping(pruner, guess, tokens)
        newlines = family.newlines(selection, grid)
        total = selection.indices.numel() + newlines
        if total <= budget:
            fits, best = guess, selection
        else:
            too_many = guess
        if total == budget:
            break
    if best is None:
        raise InputError(
            f"a budget of {budget} holds no token beside the newlines that stay: raise the retention, or leave them "
            "out of it with newlines='kept'"
        )
    return best


def _keeping(pruner: Any, number: int, tokens: VideoTokens) -> Selection:
    """What a method keeps when it keeps so many tokens; thresholds that follow its retention stay as they are."""
    changes = {"retention": number / tokens.count}
    if "equivalent_retention" in _settings(pruner):
        changes["equivalent_retention"] = pruner.equivalent_retention or pruner.retention
    selection: Selection = replace(pruner, **changes)(tokens)
    return selection


def _settings(pruner: Any) -> set[str]:
    known = is_dataclass(pruner) and not isinstance(pruner, type)
    return {field.name for field in fields(pruner) if field.init} if known else set()
