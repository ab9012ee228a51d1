"""Rows of a table."""

import pytest

from tangovlm.errors import InputError
from tangovlm.evaluate.reproduce import rows, tables


def test_keys_are_unique() -> None:
    with pytest.raises(InputError, match="two rows are called"):
        rows.check_unique_keys((tables.table("table1").rows[0],) * 2)
