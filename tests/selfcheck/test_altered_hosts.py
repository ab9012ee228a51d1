"""On a release that is not tested, a changed host is refused in one line, or its answers are right."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

import tangovlm
from tangovlm.errors import ModelError
from tangovlm.models.common import transformers_compat as versions
from tangovlm.selfcheck.checks import NEW, ONE, OTHER, QUESTION
from tangovlm.selfcheck.twins import load
from tangovlm.selfcheck.twins.common.base import Twin
from tangovlm.selfcheck.twins.common.norms import Norms
from tangovlm.selfcheck.twins.common.parts import TokenIds
from tests.selfcheck.altered import CHANGES
from tests.selfcheck.conftest import UNKNOWN

NAMES = ("llava_onevision", "qwen2_5_vl", "internvl")
Answers = list[list[int]]


@pytest.fixture(scope="module")
def right_answers() -> dict[str, Answers]:
    """The expected answers by the name of the twin, computed before any test changes a class."""
    return {name: wanted(load(name)()) for name in NAMES}


def wanted(twin: Twin) -> Answers:
    """The expected answers of a twin: a padded batch, and a second turn after it."""
    first = [twin.reference(row, Norms(), NEW)[0] for row in (ONE, OTHER)]
    again = [(*row, TokenIds(tuple(said)), QUESTION) for row, said in zip((ONE, OTHER), first, strict=True)]
    return first + [twin.reference(row, Norms(), NEW)[0] for row in again]


def answers(twin: Twin) -> Answers:
    """The same answers of the attached twin."""
    inputs = twin.inputs([ONE, OTHER])
    options: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False}
    with tangovlm.attach(twin.model, Norms(), timestamps=torch.arange(4.0)):
        first = twin.model.generate(**inputs, **options, return_dict_in_generate=True)
        held = {name: value for name, value in first.items() if hasattr(value, "get_seq_length")}
        again = twin.model.generate(**twin.next_turn(inputs, first.sequences, QUESTION), **options, **held)
    return [*first.sequences[:, -NEW:].tolist(), *again[:, -NEW:].tolist()]


def refusal(twin: Twin, right: Answers) -> str:
    """The error message of `attach`, or "" if the answers are right; fails the test if they are wrong."""
    try:
        found = answers(twin)
    except ModelError as error:
        message = str(error)
        assert f"transformers {UNKNOWN}" in message
        assert versions.newest_tested() in message
        assert "\n" not in message
        return message
    assert found == right
    return ""


@pytest.mark.usefixtures("unknown_release")
@pytest.mark.parametrize("name", NAMES)
def test_an_unchanged_host_is_right(name: str, right_answers: dict[str, Answers]) -> None:
    assert refusal(load(name)(), right_answers[name]) == ""


@pytest.mark.usefixtures("unknown_release")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_host_is_refused_or_right(
    change: str, name: str, right_answers: dict[str, Answers], monkeypatch: pytest.MonkeyPatch
) -> None:
    stock, right = load(name)(), right_answers[name]
    # Once for each change: cached results of the original classes do not apply to the changed ones.
    if name == NAMES[0]:
        assert refusal(stock, right) == ""
    CHANGES[change](monkeypatch, stock)
    refusal(load(name)(), right)


# A text model may ignore position ids that equal its own.
HARMFUL = [(c, n) for c in CHANGES for n in NAMES if c != "positions_ignored" or n == "qwen2_5_vl"]


@pytest.mark.parametrize(("change", "name"), HARMFUL)
def test_each_change_is_harmful(
    change: str, name: str, right_answers: dict[str, Answers], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the check, an answer is wrong or the call raises an error."""
    stock = load(name)()
    monkeypatch.setattr("transformers.__version__", f"{versions.TESTED[-1]}.1")
    CHANGES[change](monkeypatch, stock)
    try:
        found = answers(load(name)())
    except ModelError:
        return
    assert found != right_answers[name]


@pytest.mark.usefixtures("unknown_release")
@pytest.mark.parametrize("name", NAMES)
def test_a_class_by_the_user_is_checked_too(name: str, right_answers: dict[str, Answers]) -> None:
    """Stock classes are unchanged; the model has classes derived from them."""
    twin, right = load(name)(), right_answers[name]
    base, text = twin.model.model, twin.model.get_decoder()

    class Plain(type(base)):  # type: ignore[misc]
        """Changes nothing."""

    class Deaf(type(text)):  # type: ignore[misc]
        """Ignores positions."""

        @functools.wraps(type(text).forward)
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return super().forward(*args, **kwargs | {"position_ids": None})

    base.__class__ = Plain
    assert refusal(twin, right) == ""
    text.__class__ = Deaf
    assert "the check 'position ids'" in refusal(twin, right)
