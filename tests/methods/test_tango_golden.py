"""Tango against vectors recorded from the authors' code; see tests/golden/README.md."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tangovlm import Tango, VideoTokens, method
from tangovlm.methods.common.similarity import normalize
from tangovlm.methods.common.st_rope import st_rope

CASES = sorted((Path(__file__).parents[1] / "golden").glob("*.npz"))
TOLERANCE = 1e-4


def load(path: Path) -> tuple[dict[str, Any], dict[str, Any], VideoTokens]:
    with np.load(path) as file:
        case = {name: file[name] for name in file.files}
    tokens = VideoTokens(
        torch.from_numpy(case["features"]).float(),
        saliency=torch.from_numpy(case["saliency"]),
        timestamps=torch.from_numpy(case["timestamps"]),
    )
    return case, json.loads(str(case["params"])), tokens


def test_all_cases_are_here() -> None:
    assert len(CASES) == 18


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_release(path: Path) -> None:
    case, params, tokens = load(path)
    selection = Tango.release(**params)(tokens)
    assert selection.segments == tuple(case["segment_sizes"].tolist())
    assert selection.indices.tolist() == case["kept_indices"].tolist()
    torch.testing.assert_close(
        selection.features, torch.from_numpy(case["kept_features_release"]), atol=TOLERANCE, rtol=0
    )


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_consistent_placement(path: Path) -> None:
    case, params, tokens = load(path)
    for pruner in (
        Tango.release(**params, placement="consistent"),
        method("tango", exact=False, **params),
    ):
        selection = pruner(tokens)
        assert selection.indices.tolist() == case["kept_indices"].tolist()
        torch.testing.assert_close(selection.features, torch.from_numpy(case["kept_features"]), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_rotated_tokens(path: Path) -> None:
    case, params, tokens = load(path)
    assert tokens.timestamps is not None
    rotated = st_rope(
        normalize(tokens.features),
        tokens.timestamps,
        sections=tuple(params["rope_sections"]),
        base_time=params["base_time"],
        base_space=params["base_space"],
    )
    torch.testing.assert_close(rotated[:2, :2, :3], torch.from_numpy(case["roped_head"]), atol=TOLERANCE, rtol=0)
