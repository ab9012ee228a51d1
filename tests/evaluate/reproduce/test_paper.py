"""Published numbers."""

from pathlib import Path

import pytest

from tangovlm.errors import InputError
from tangovlm.evaluate.reproduce.paper import Paper
from tests.support.reproduce import plan


def test_published_numbers_have_sources_and_others_are_not_invented(tmp_path: Path) -> None:
    made, paper = plan("table1"), Paper()
    known = {step.row.key: paper.of("table1", step.row) for step in made.steps}
    assert {key: each for key, each in known.items() if each} == {
        key: {"percent_of_baseline": 98.9} for key in ("10-tango", "10-tango-the-paper-s-text", "10-tango-the-release")
    }
    assert "abstract" in paper.sources("table1", tuple(step.row for step in made.steps))[0]
    own = tmp_path / "own.json"
    own.write_text('{"table1": {"10 %": {"FastV": {"mvbench": 55.5, "average": null}}}}')
    (fastv,) = [step.row for step in made.steps if step.row.key == "10-fastv"]
    assert Paper(own).of("table1", fastv) == {"mvbench": 55.5}
    own.write_text('{"table1": {"10 %": {"FastV": {"mvbench": "55.5"}}}}')
    with pytest.raises(InputError, match=r"is no file of published numbers \('55.5' is no number\)"):
        Paper(own)
    with pytest.raises(InputError, match="cannot be read"):
        Paper(tmp_path / "missing.json")
