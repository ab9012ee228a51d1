"""Positions of pruned videos: stored in extra channels of embeddings, and read back chunk by chunk, in any state."""

import itertools

import pytest
import torch
from torch import Tensor

from tangovlm.serve.models import mrope_positions

TEXT, VIDEO = 1, 7
WIDTH = 4


def prompt(lead: int, dtype: torch.dtype) -> tuple[list[int], Tensor, Tensor, list[tuple[int, Tensor]]]:
    """Text, a video, text, an image (not pruned), a video, text: ids, positions as vLLM gets them, the expected final
    positions, and the start and embeddings of each item."""
    ids: list[int] = []
    given, wanted, found = [], [], []
    base = 0
    for kind, length, extent in (
        ("text", 3, 3),
        ("video", 6, 70000),
        ("text", 2, 2),
        ("image", 2, 5),
        ("video", 5, 300),
    ):
        start = len(ids)
        if kind == "video":
            offsets = torch.randint(0, extent, (3, length))
            rows = torch.randn(length, WIDTH).to(dtype)
            found.append((start, mrope_positions.append_positions(rows, offsets, lead)))
            ids += [TEXT] * lead + [VIDEO] * (length - lead - 1) + [TEXT]
            given.append(mrope_positions.pending_positions(torch.full((3,), base), length))
            wanted.append(base + offsets)
        else:
            if kind == "image":
                found.append((start, torch.randn(length, WIDTH).to(dtype)))
            ids += [TEXT] * length
            given.append(base + torch.arange(length).expand(3, -1))
            wanted.append(given[-1])
        base += extent
    return ids, torch.cat(given, dim=1).clone(), torch.cat(wanted, dim=1), found


def chunk(found: list[tuple[int, Tensor]], start: int, stop: int) -> list[Tensor]:
    """The embeddings that vLLM passes for a part of a prompt."""
    parts = [rows[max(start - at, 0) : max(stop - at, 0)] for at, rows in found]
    return [part for part in parts if len(part)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("lead", [0, 2])
def test_chunks_of_any_size(lead: int, dtype: torch.dtype) -> None:
    for size in range(1, 20):
        ids, found, wanted, rows = prompt(lead, dtype)
        for start in range(0, len(ids), size):
            given = chunk(rows, start, start + size)
            left = mrope_positions.fill_positions(found, given, WIDTH, ids, VIDEO, start)
            assert all(torch.equal(one, other[:, :WIDTH]) for one, other in zip(left, given, strict=True))
        assert torch.equal(found, wanted)


def test_a_preempted_prompt_comes_again_from_anywhere() -> None:
    for first, again, stop in itertools.product(range(0, 16, 3), range(0, 16, 2), range(8, 18, 3)):
        ids, found, wanted, rows = prompt(1, torch.float32)
        mrope_positions.fill_positions(found, chunk(rows, first, stop), WIDTH, ids, VIDEO, first)
        mrope_positions.fill_positions(found, chunk(rows, again, len(ids)), WIDTH, ids, VIDEO, again)
        assert torch.equal(found[:, again:], wanted[:, again:])


def test_videos_side_by_side() -> None:
    one, other = (
        mrope_positions.append_positions(torch.zeros(3, WIDTH), torch.full((3, 3), each), 0) for each in (4, 9)
    )
    found = torch.cat([mrope_positions.pending_positions(torch.full((3,), base), 3) for base in (0, 20)], dim=1).clone()
    mrope_positions.fill_positions(found, [one, other], WIDTH, [VIDEO] * 6, VIDEO, 0)
    assert found.tolist() == [[4, 4, 4, 29, 29, 29]] * 3


def test_the_delta_behind_text() -> None:
    assert mrope_positions.position_delta(torch.tensor([[0, 1, 9, 10]] * 3)) == 7
