"""The decay of ST-RoPE beside the mean of plain cosines (Eq. 6-8 of the paper)."""

import csv
import math
from pathlib import Path

import pytest
import torch

from tangovlm.errors import InputError
from tangovlm.inspection import decay
from tangovlm.inspection.output import save, write_csv
from tangovlm.methods.common.st_rope import st_rope


def plain(axis: str, base: float, distance: float, sections: tuple[int, int, int]) -> float:
    """Cosine of two equal tokens: of every pair of channels the cosine of its angle, of other channels 1."""
    size = sections[0] if axis == "time" else sections[1]
    half = size // 2
    turned = sum(2 * math.cos(distance * base ** (-2 * k / (2 * half))) for k in range(half))
    return (turned + sum(sections) - 2 * half) / sum(sections)


def test_rows_are_means_of_cosines(tmp_path: Path) -> None:
    measured = decay.measure(channels=48, time_bases=(1e2, 1e4), space_bases=(1e3,), seconds=20, cells=5)
    write_csv(tmp_path / "rows.csv", measured.rows())
    rows = list(csv.DictReader((tmp_path / "rows.csv").open()))
    assert len(rows) == 2 * 21 + 6
    for row in rows:
        wanted = plain(row["axis"], float(row["base"]), float(row["distance"]), (16, 16, 16))
        assert float(row["similarity"]) == pytest.approx(wanted, abs=1e-6)
    save(tmp_path / "d.png", decay.draw(measured))
    assert (tmp_path / "d.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("axis", "distance", "measured"),
    [
        ("time", 1, 0.989), ("time", 5, 0.902), ("time", 30, 0.866), ("time", 300, 0.764), ("space", 1, 0.986),
        ("space", 13, 0.851),
    ],
)  # fmt: skip
def test_what_the_authors_code_did_to_a_random_token(axis: str, distance: int, measured: float) -> None:
    found = decay.measure()
    curve = found.time[1e4] if axis == "time" else found.space[1e3]
    # One random token differs from the expectation by about 0.01.
    assert curve[distance] == pytest.approx(measured, abs=0.015)


def test_random_tokens_have_this_mean() -> None:
    found = decay.measure(channels=60, time_bases=(1e3,), space_bases=(1e3,), seconds=3, cells=1)
    tokens = torch.nn.functional.normalize(
        torch.randn(4000, 60, generator=torch.Generator().manual_seed(0), dtype=torch.float64), dim=1
    )
    rotated = st_rope(
        tokens[:, None, None].expand(-1, 1, 2, -1).transpose(0, 2).reshape(2, 1, 4000, 60), torch.tensor([0.0, 3.0]),
        base_time=1e3,
    )  # fmt: skip
    similarity = (rotated[0] * rotated[1]).sum(dim=-1).mean()
    assert float(similarity) == pytest.approx(found.time[1e3][3], abs=0.01)


def test_summary_has_the_last_distance() -> None:
    last = decay.measure(channels=12, seconds=30, cells=13).summary()[-1]
    assert (last["axis"], last["at"], last["30"]) == ("space", 13.0, None)
    assert last["last"] == last["13"]


@pytest.mark.parametrize("given", [{"channels": 5}, {"time_bases": (0.0,)}, {"space_bases": (float("nan"),)}])
def test_refusals(given: dict[str, object]) -> None:
    with pytest.raises(InputError):
        decay.measure(**given)  # type: ignore[arg-type]
