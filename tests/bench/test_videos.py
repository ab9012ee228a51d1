"""The synthetic videos have the structure that they promise, and are the same every time."""

import pytest
import torch

import tangovlm
from tangovlm.bench.prune.floor import adjacent_cosines, segment_shapes
from tangovlm.bench.videos import KINDS, Shape, parse_shape, synthetic
from tangovlm.errors import InputError
from tangovlm.methods.common.segments import similarity_threshold


@pytest.mark.parametrize("retention", [0.1, 0.2])
def test_still_has_four_scenes_and_a_fifth_that_changes(retention: float) -> None:
    tokens = synthetic(Shape(32, 8, 8, 256), "still")
    segments = tangovlm.Tango(retention=retention)(tokens).segments
    assert segments == (16, 8, 4, 4)
    shapes = segment_shapes(adjacent_cosines(tokens.features) > similarity_threshold(retention), segments)
    changing = sum(shape.dynamic for shape in shapes) / sum(shape.static + shape.dynamic for shape in shapes)
    assert 0.1 < changing < 0.3


def test_busy_is_all_cuts() -> None:
    assert tangovlm.Tango()(synthetic(Shape(12, 6, 6, 128), "busy")).segments == (1,) * 12


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_every_time(kind: str) -> None:
    shape = Shape(5, 3, 4, 10)
    one, two, other = (synthetic(shape, kind, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.features, two.features)
    assert not torch.equal(one.features, other.features)
    half = synthetic(shape, kind, dtype=torch.float16)
    assert torch.equal(half.features, one.features.half())
    assert one.saliency is not None
    assert two.saliency is not None
    assert torch.equal(one.saliency, two.saliency)


def test_random_numbers_of_the_caller_stay() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    synthetic(Shape(2, 2, 2, 4), "still")
    assert torch.equal(torch.rand(3), expected)


def test_shapes_are_read() -> None:
    shape = parse_shape("32, 14,14,3584")
    assert (shape, shape.tokens, str(shape)) == (Shape(32, 14, 14, 3584), 6272, "32x14x14x3584")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "32",
        "32,14,14",
        "32,14,14,3584,1",
        "32,14,14,x",
        "0,14,14,8",
        "-1,2,2,2",
        "1.5,2,2,2",
        "9" * 5000 + ",1,1,1",
    ],
)
def test_shapes_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"--shape is .* T,H,W,D, such as 32,14,14,3584"):
        parse_shape(text)


def test_a_long_refused_shape_is_not_repeated_whole() -> None:
    with pytest.raises(InputError) as refused:
        parse_shape("9" * 5000 + ",1,1,1")
    assert len(str(refused.value)) < 200
