"""What stock models of the oldest supported release cannot do, shown on the model itself before a test is skipped."""

from collections.abc import Callable
from typing import Any

import pytest
import transformers

OLDEST = transformers.__version__.startswith("5.17.")


def skip_if_broken(way: str, call: Callable[[], Any], wanted: Any) -> None:
    """Skip where the stock model raises or says something else than it should; on the oldest release only.

    Parameters
    ----------
    call: the way on a model that nothing is attached to.
    wanted: what it should give, from the same model used in a plain way.
    """
    if not OLDEST:
        return
    try:
        works = call() == wanted
    except ValueError:
        works = False
    if not works:
        pytest.skip(f"{way} of a stock model is broken in transformers {transformers.__version__}")
