"""DivPrune, ForestPrune, VidCom2 and VisionZip against vectors recorded from their releases."""

from pathlib import Path

import pytest

from tangovlm import method
from tangovlm.methods.common.diversity import max_min
from tangovlm.methods.common.similarity import normalize
from tests.golden.cases import assert_selection, case_params, load

CASES = case_params(("divprune", "forestprune", "vidcom2", "visionzip"))


def test_all_cases_are_here() -> None:
    assert len(CASES) == 13


@pytest.mark.parametrize("path", CASES)
def test_release(path: Path) -> None:
    case, params, tokens = load(path)
    selection = method(path.stem.rsplit("_", 1)[0], exact=False, **params)(tokens)
    assert_selection(selection, case)
    if "frame_counts" in case:
        kept = (selection.sources >= 0).flatten(1).sum(dim=1)
        assert kept.tolist() == case["frame_counts"].tolist()


@pytest.mark.parametrize("path", case_params(("divprune",)))
def test_order_of_choice(path: Path) -> None:
    case, _, tokens = load(path)
    unit = normalize(tokens.features).flatten(0, 2)[None]
    assert max_min(unit, len(case["order"]))[0].tolist() == case["order"].tolist()
