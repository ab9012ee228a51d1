"""The examples in docstrings produce the results that they show."""

import doctest
from importlib import import_module

import pytest

MODULES = (
    "tangovlm.session.attach",
    "tangovlm.session.cache_state",
    "tangovlm.session.unwrap",
    "tangovlm.pipeline.ask",
    "tangovlm.pipeline.load",
)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    result = doctest.testmod(import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
