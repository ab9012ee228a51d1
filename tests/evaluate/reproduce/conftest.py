"""A plan with the unpruned model and three rows of Tango."""

import pytest

from tangovlm.evaluate.reproduce.planning import Plan
from tests.support.reproduce import plan


@pytest.fixture
def made() -> Plan:
    return plan("table1", rows=["^10-tango"])
