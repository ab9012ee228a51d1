"""Skips tests of features that are broken in stock models of the oldest supported release."""

from collections.abc import Callable
from typing import Any

import pytest
import transformers

OLDEST = transformers.__version__.startswith("5.17.")


def skip_if_broken(way: str, call: Callable[[], Any], wanted: Any) -> None:
    """Skip a test if the stock model raises an error or gives a wrong answer; on the oldest release only.

    Parameters
    ----------
    way: name of the feature.
    call: uses it on a model that is not attached.
    wanted: the expected answer.
    """
    if not OLDEST:
        return
    try:
        works = call() == wanted
    except ValueError:
        works = False
    if not works:
        pytest.skip(f"{way} of a stock model is broken in transformers {transformers.__version__}")
