"""The clips of `bench ttft`."""

import torch

from tangovlm.bench.ttft.random_weights import clips


def test_films_change_in_part() -> None:
    first, second = clips(2, 8, 56)
    assert not torch.equal(first, second)
    same = (first[1:] == first[:-1]).all(dim=1).float().mean(dim=(1, 2))
    assert [bool(share > 0.4) for share in same] == [True, False] * 3 + [True]
    assert bool((same < 1).all())
