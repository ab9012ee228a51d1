"""What must be computed: counted by hand, and against what the reference really clusters."""

import pytest
import torch

from tangovlm.bench.prune import floor, reference
from tangovlm.bench.videos import KINDS, Shape, synthetic
from tangovlm.budget import SegmentShape
from tangovlm.methods.common.segments import similarity_threshold


def test_by_hand() -> None:
    # Half of 2 frames x (4 static + 6 dynamic): the rows of 4, 6 and 6 tokens keep 3, 3 and 4, of which 2, 2 and 2 are
    # salient, chosen of 3 candidates each. The static row leaves 2 tokens for 1 anchor, the dynamic ones 8 for 3.
    points = floor.clustered_points([SegmentShape(2, 4, 6)], 10)
    assert points == [3, 2, 3, 3, 8]
    assert floor.known_flops(points, 5) == (3 + 1 + 3 + 3 + 28) * 2 * 5


def test_nothing_to_cluster() -> None:
    assert floor.clustered_points([SegmentShape(1, 0, 4)], 4) == []
    assert floor.known_flops([], 8) == 0


@pytest.mark.parametrize("retention", [0.05, 0.1, 0.3])
@pytest.mark.parametrize("kind", KINDS)
def test_counts_what_is_clustered(kind: str, retention: float, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = reference.density_peaks

    def recording(points: torch.Tensor, centers: int) -> tuple[torch.Tensor, torch.Tensor]:
        if centers:
            seen.append(len(points))
        return real(points, centers)

    monkeypatch.setattr(reference, "density_peaks", recording)
    tokens = synthetic(Shape(16, 5, 6, 64), kind)
    reduced = reference.tango_reference(tokens, retention)
    shapes = floor.segment_shapes(
        floor.adjacent_cosines(tokens.features) > similarity_threshold(retention), reduced.segments
    )
    assert sorted(floor.clustered_points(shapes, len(reduced.indices))) == sorted(seen)


def test_cosines_and_shapes() -> None:
    features = torch.tensor([[[1.0, 0], [0, 2]], [[2.0, 0], [3, 0]], [[5.0, 0], [0, 1]]]).view(3, 1, 2, 2)
    cosines = floor.adjacent_cosines(features.half())
    assert torch.allclose(cosines, torch.tensor([[1.0, 0], [1, 0]]))
    assert floor.segment_shapes(cosines > 0.5, (3,)) == [SegmentShape(3, 1, 1)]
    assert floor.segment_shapes(cosines > 0.5, (1, 2)) == [SegmentShape(1, 0, 2), SegmentShape(2, 1, 1)]
