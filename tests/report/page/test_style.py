"""Colours of the page: contrast by WCAG 2.2 level AA in every scheme, and segments that differ without hue too."""

import re
from importlib.resources import files
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest

CSS = files("tangovlm.report").joinpath("page", "page.css").read_text(encoding="utf-8")
SEGMENTS = [f"segment-{number}" for number in range(4)]
TEXT = [
    *((name, ground) for name in ("text", "quiet", "right", "wrong", "accent") for ground in ("ground", "card")),
    ("on-accent", "accent"),
    *(("on-segment", segment) for segment in SEGMENTS),
]
"""Pairs of a text and its background, at least 4.5 to 1 (success criterion 1.4.3)."""
GRAPHICS = [(name, ground) for name in ("edge", "accent", *SEGMENTS) for ground in ("ground", "card")]
"""Borders of controls, focus, bars and segments, at least 3 to 1 (1.4.11)."""


def schemes() -> dict[str, dict[str, str]]:
    """The variables of each block that sets colours, by its position in the style sheet."""
    names = ("light", "dark by the system", "dark by the switch", "print")
    blocks = re.findall(r"\{\s*color-scheme: [^}]*\}", CSS)
    assert len(blocks) == len(names)
    return {
        name: dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for name, block in zip(names, blocks, strict=True)
    }


SCHEMES = schemes()


def linear(colour: str) -> npt.NDArray[np.float64]:
    values = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    low, high = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def test_contrast_of_known_colours() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_contrast(scheme: str) -> None:
    colours = SCHEMES[scheme]
    for pairs, least in ((TEXT, 4.5), (GRAPHICS, 3.0)):
        ratios = {pair: contrast(*(colours[name] for name in pair)) for pair in pairs}
        assert not {pair: ratio for pair, ratio in ratios.items() if ratio < least}


def test_both_ways_to_the_dark_scheme_are_the_same() -> None:
    assert SCHEMES["dark by the system"] == SCHEMES["dark by the switch"]
    assert all(colours.keys() == SCHEMES["light"].keys() for colours in SCHEMES.values())


def test_every_colour_of_a_text_is_one_of_these() -> None:
    used = re.findall(r"(?<![\w-])color: ([^;}]+)", CSS)
    assert {each.strip() for each in used} <= {"inherit", *(f"var(--{name})" for name, _ in TEXT)}


# On linear RGB: Vienot, Brettel and Mollon (1999), and Machado, Oliveira and Fernandes (2009) for tritanopia.
VISION = {
    "normal": np.eye(3),
    "protanopia": np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]]),
    "deuteranopia": np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


def lab(rgb: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """CIE L*a*b* under D65 of linear RGB."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(np.clip(to_xyz @ np.clip(rgb, 0, 1) / [0.9505, 1, 1.089], 0.00886, None))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("scheme", ["light", "dark by the switch"])
def test_segments_side_by_side_differ_for_colour_blind_people(scheme: str, vision: str) -> None:
    seen = [lab(VISION[vision] @ linear(SCHEMES[scheme][segment])) for segment in SEGMENTS]
    far = {pair: float(np.linalg.norm(seen[pair[0]] - seen[pair[1]])) for pair in combinations(range(4), 2)}
    # Adjacent segments have adjacent colours, the last and the first too; 2.3 is just noticeable.
    assert all(far[tuple(sorted((number, (number + 1) % 4)))] > 12 for number in range(4)), far
