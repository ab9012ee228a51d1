"""Plans: chosen rows, rows out of reach, and the memory that is needed."""

import pytest

from tangovlm.errors import InputError
from tangovlm.evaluate.reproduce import models, planning
from tests.support.reproduce import plan


def test_what_four_layers_cannot_reach_is_listed_with_the_reason() -> None:
    made = plan("table1", models.TINY)
    reasons = {step.row.key: step.resolved.unreachable for step in made.steps if step.resolved.unreachable}
    assert set(reasons) == {f"{group}-{name}" for group in (20, 15, 10) for name in ("fastv", "dart")}
    assert all("the smallest is 0.25" in str(reason) for reason in reasons.values())
    assert "the smallest is 0.25" in planning.markdown(made, {})
    assert len(made.reachable) == len(made.steps) - 6
    assert {step.row.frames for step in made.steps} == {8}


def test_too_little_memory_and_too_few_gpus_are_refused_before_anything_is_loaded() -> None:
    made = plan("fig6", gpus=2)
    with pytest.raises(InputError, match=r"predicted to take \d\d\.\d GB on each GPU and small has 16\.0 GB"):
        planning.check_devices(made, [80 * 10**9, 16 * 10**9], "small")
    with pytest.raises(InputError, match="--gpus is 2, and PyTorch sees 1 here"):
        planning.check_devices(made, [80 * 10**9], "large")
    planning.check_devices(made, [80 * 10**9] * 2, "large")
    planning.check_devices(made, [], "none")


def test_rows_are_chosen_by_name_or_expression_and_the_unpruned_model_stays() -> None:
    def keys(*wanted: str) -> list[str]:
        return [step.row.key for step in plan("table1", rows=wanted).steps]

    assert keys("10-tango") == ["100-all-tokens", "10-tango"]
    assert keys("^10-(fastv|dart)$") == ["100-all-tokens", "10-fastv", "10-dart"]
    assert keys("PruneVid", "10-fastvid") == ["100-all-tokens", "20-prunevid", "10-fastvid"]
    with pytest.raises(InputError, match=r"fits no row of table1: it has 100-all-tokens, 20-fastv"):
        keys("flashvid")
    with pytest.raises(InputError, match="no regular expression"):
        keys("(")
