"""Golden vectors of the methods beside Tango, in the folder ``baselines``."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tangovlm import Selection, VideoTokens

FOLDER = Path(__file__).parent / "baselines"
TOLERANCE = 1e-4


def case_params(names: tuple[str, ...]) -> list[Any]:
    """One pytest parameter a recorded case of these methods."""
    paths = [path for name in names for path in sorted(FOLDER.glob(f"{name}_[0-9]*.npz"))]
    return [pytest.param(path, id=path.stem) for path in paths]


def load(path: Path) -> tuple[dict[str, Any], dict[str, Any], VideoTokens]:
    """What was recorded, the arguments of the method, and the video; float16 features are made float32."""
    with np.load(path) as file:
        case = {name: file[name] for name in file.files}
    signals = {
        name: torch.from_numpy(case[name]).float() for name in ("saliency", "frame_features", "keys") if name in case
    }
    return case, json.loads(str(case["params"])), VideoTokens(torch.from_numpy(case["features"]).float(), **signals)


def assert_selection(selection: Selection, case: dict[str, Any]) -> None:
    """Indices and segments are equal, values agree."""
    if "segment_sizes" in case:
        assert selection.segments == tuple(case["segment_sizes"].tolist())
    assert selection.indices.tolist() == case["kept_indices"].tolist()
    expected = torch.from_numpy(case["kept_features"])
    torch.testing.assert_close(selection.features, expected, atol=TOLERANCE, rtol=0)
