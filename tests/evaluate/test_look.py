"""What the kept tokens lie on."""

import numpy as np
import torch

from tangovlm.evaluate.look import Ground
from tangovlm.evaluate.task import View
from tangovlm.tiny.synthetic.world import Clip, Decoy, Scene
from tangovlm.tokens import Selection

DECOY = Decoy("ribbon", start=1, end=2, point=(7 + 14 * 5, 7.0), velocity=(0.0, 0.0), size=14, seed=0)


def make_view() -> View:
    """Two frames: thing 0 fills two cells of the first, thing 1 one of the second, a decoy another of the second."""
    owners = np.zeros((2, 8, 8), np.int8)
    owners[0, 0, :2] = 1
    owners[1, 3, 3] = 2
    clip = Clip(2, (Scene(0, 2, 0, (0.0, 0.0), (DECOY,)),), (), 0)
    return View(clip, torch.zeros(2, 3, 112, 112, dtype=torch.uint8), torch.arange(2.0), [0.0, 1.0], owners)


def keep(*indices: int) -> Selection:
    kept = torch.tensor(indices)
    return Selection(kept, torch.zeros(len(kept), 1), torch.full((2, 8, 8), -1), (2,))


def test_shares() -> None:
    ground = Ground(make_view(), 8, 8)
    look = ground.look(keep(0, 9, 64 + 5, 64 + 6), about=[0])
    assert look == (1.0, 0.5, 0.25, 0.25, 1.0)
    assert ground.look(keep(0, 1), about=[0]) == (1.0, 1.0, 1.0, 0.0, 0.5)


def test_all_things_must_be_found() -> None:
    ground = Ground(make_view(), 8, 8)
    assert ground.look(keep(0, 1), about=[0, 1])[:2] == (0.0, 0.0)
    assert ground.look(keep(0, 64 + 27), about=[0, 1])[:2] == (1.0, 0.5)


def test_other_grids() -> None:
    ground = Ground(make_view(), 4, 4)
    assert ground.owners.shape == (2, 4, 4)
    assert ground.owners[0, 0, 0] == 1
    assert Ground(make_view(), 16, 16).owners[1, 7, 6] == 2
