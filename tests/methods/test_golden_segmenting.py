"""FastVID, HoliTom, PruneVid, FlashVID and UniComp against vectors recorded from the authors' code."""

from pathlib import Path

import pytest

from tangovlm import method
from tests.golden.cases import assert_selection, case_params, load

METHODS = {"fastvid": 3, "holitom": 4, "prunevid": 4, "flashvid": 4, "unicomp": 5}
CASES = case_params(tuple(METHODS))


def test_all_cases_are_here() -> None:
    assert len(CASES) == sum(METHODS.values())


@pytest.mark.parametrize("path", CASES)
def test_release(path: Path) -> None:
    case, params, tokens = load(path)
    selection = method(path.stem.rsplit("_", 1)[0], exact=False, **params)(tokens)
    assert_selection(selection, case)
