"""The benchmarks by name."""

import pytest

from tangovlm.errors import InputError
from tangovlm.evaluate.reproduce import benchmarks


def test_benchmarks_are_chosen_by_name() -> None:
    with pytest.raises(InputError, match="choose from mvbench, longvideobench, mlvu, videomme"):
        benchmarks.chosen(["egoschema"])
    assert [each.name for each in benchmarks.chosen(["videomme", "mvbench"])] == ["mvbench", "videomme"]
