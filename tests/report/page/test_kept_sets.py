"""Kept sets as data of the page's script."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tangovlm.report import Scene
from tangovlm.report.page import kept_sets
from tangovlm.report.page.kept_sets import token_data
from tangovlm.report.scenes import KeptSet
from tests.support.page import read_set


def labels(scene: Scene) -> list[str]:
    return [str(each.retention) for each in scene.sets]


@pytest.mark.parametrize(("slots", "planes"), [(255, 1), (256, 2), (0xFFFF, 2), (0x10000, 3)])
def test_sources_of_any_number_of_slots(drawn: Scene, slots: int, planes: int) -> None:
    grid = (4, 128, 256)
    kept = np.zeros(grid, dtype=bool)
    kept.ravel()[:slots] = True
    sources = np.random.default_rng(0).integers(-1, slots, grid)
    sources.ravel()[:slots] = np.arange(slots)
    one = replace(drawn, sets=(KeptSet(0.1, sources, kept, (4,), answered=True),))
    data = json.loads(token_data(one, labels(one), 0))
    assert data["planes"] == planes
    found, flags = read_set(data, 0)
    assert (found == sources).all()
    assert (flags == kept).all()


def test_clusters_of_other_retentions_are_left_out_if_they_take_too_much(
    drawn: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all(each["clustered"] for each in json.loads(token_data(drawn, labels(drawn), 0))["sets"])
    monkeypatch.setattr(kept_sets, "MAX_BYTES", 1)
    data = json.loads(token_data(drawn, labels(drawn), 0))
    assert [each["clustered"] for each in data["sets"]] == [False, False, True, False]
    for number, whole in enumerate(drawn.sets):
        sources, kept = read_set(data, number)
        assert (kept == whole.kept).all()
        assert ((sources < 0) == (whole.sources < 0)).all()
        assert whole.answered == (sources.max() > 0)


def test_nothing_ends_the_script_element(drawn: Scene) -> None:
    text = token_data(drawn, ["</script><b>"] * len(drawn.sets), 0)
    assert "<" not in text
    assert json.loads(text)["sets"][0]["label"] == "</script><b>"
