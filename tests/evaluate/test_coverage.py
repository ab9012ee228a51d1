"""What the kept tokens cover."""

import numpy as np
import torch

from tangovlm.evaluate.coverage import GroundTruth
from tangovlm.evaluate.tangoworld import RenderedClip
from tangovlm.tiny.synthetic.world import Clip, Decoy, Scene
from tangovlm.tokens import Selection

DECOY = Decoy("ribbon", start=1, end=2, point=(7 + 14 * 5, 7.0), velocity=(0.0, 0.0), size=14, seed=0)


def make_clip() -> RenderedClip:
    """Two frames: thing 0 fills two cells of the first, thing 1 one of the second, a decoy another of the second."""
    owners = np.zeros((2, 8, 8), np.int8)
    owners[0, 0, :2] = 1
    owners[1, 3, 3] = 2
    clip = Clip(2, (Scene(0, 2, 0, (0.0, 0.0), (DECOY,)),), (), 0)
    return RenderedClip(clip, torch.zeros(2, 3, 112, 112, dtype=torch.uint8), torch.arange(2.0), [0.0, 1.0], owners)


def keep(*indices: int) -> Selection:
    kept = torch.tensor(indices)
    return Selection(kept, torch.zeros(len(kept), 1), torch.full((2, 8, 8), -1), (2,))


def test_shares() -> None:
    truth = GroundTruth(make_clip(), 8, 8)
    coverage = truth.coverage(keep(0, 9, 64 + 5, 64 + 6), about=[0])
    assert coverage == (1.0, 0.5, 0.25, 0.25, 1.0)
    assert truth.coverage(keep(0, 1), about=[0]) == (1.0, 1.0, 1.0, 0.0, 0.5)


def test_all_things_must_be_found() -> None:
    truth = GroundTruth(make_clip(), 8, 8)
    assert truth.coverage(keep(0, 1), about=[0, 1])[:2] == (0.0, 0.0)
    assert truth.coverage(keep(0, 64 + 27), about=[0, 1])[:2] == (1.0, 0.5)


def test_other_grids() -> None:
    truth = GroundTruth(make_clip(), 4, 4)
    assert truth.owners.shape == (2, 4, 4)
    assert truth.owners[0, 0, 0] == 1
    assert GroundTruth(make_clip(), 16, 16).owners[1, 7, 6] == 2
