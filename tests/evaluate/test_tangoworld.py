"""The questions of the benchmark are fixed, even, and about clips of their own."""

from collections import Counter
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from tangovlm.errors import InputError
from tangovlm.evaluate.tangoworld import (
    OFFICIAL,
    TRAINING_SEEDS,
    VERSIONS,
    Benchmark,
    ClipQuestions,
    benchmark,
    draw_questions,
    fingerprint,
    load_questions,
    render_clip,
)
from tangovlm.tiny.synthetic.questions import KINDS

FINGERPRINTS = {
    1: "622e41c711564abc646cca769dc0b3bfa82e5594cfd3ba287da00ab1166395b6",
    2: "a4bf68ee26f5a2209ce28137d3f7836c41d79ebe2115e0707a77bf9b0eda748e",
}
"""Results are compared by them: another one is another version."""
BENCHMARKS = [benchmark(version) for version in VERSIONS]
CELLS, QUESTIONS, ROUND = OFFICIAL.cells, OFFICIAL.size, OFFICIAL.round_size


def places(chosen: tuple[ClipQuestions, ...]) -> Counter[tuple[int, str]]:
    """How many questions of each kind each cell has."""
    return Counter((case.cell, asked.question.kind) for case in chosen for asked in case.questions)


def numbers(chosen: tuple[ClipQuestions, ...]) -> list[int]:
    return sorted(asked.number for case in chosen for asked in case.questions)


@pytest.mark.parametrize("of", BENCHMARKS)
def test_a_version_is_fixed(of: Benchmark) -> None:
    assert fingerprint(of) == FINGERPRINTS[of.version]
    assert of.official
    assert of.seed not in TRAINING_SEEDS


@pytest.mark.parametrize("of", BENCHMARKS)
def test_it_is_large_and_even(of: Benchmark) -> None:
    everything = load_questions(benchmark=of)
    assert numbers(everything) == list(range(of.size))
    assert of.size >= 1000
    assert places(everything) == dict.fromkeys(product(range(len(of.cells)), of.kinds), of.size // of.round_size)
    assert {(of.lengths[0], "still"), (of.lengths[-1], "busy")} <= set(of.cells)
    assert len({(case.cell, case.draw) for case in everything}) == len(everything)
    for case in everything:
        assert max(Counter(asked.question.kind for asked in case.questions).values()) == 1
        for asked in case.questions:
            assert len(set(asked.question.choices)) == 4
            assert asked.question.answer in asked.question.choices


@pytest.mark.parametrize(
    ("of", "cell"),
    [(of, cell) for of, cells in zip(BENCHMARKS, [(0, 4, 8, 11), (1, 5)], strict=True) for cell in cells],
)
def test_making_it_again_gives_the_same(of: Benchmark, cell: int) -> None:
    rounds = 2
    again = [(case.draw, case.digest, case.questions) for case in draw_questions(cell, of, rounds)]
    first = [case for case in load_questions(rounds * of.round_size, benchmark=of) if case.cell == cell]
    assert again == [(case.draw, case.digest, case.questions) for case in first]


@pytest.mark.parametrize("of", BENCHMARKS)
def test_every_clip_is_still_drawn(of: Benchmark) -> None:
    for case in load_questions(benchmark=of):
        assert case.clip().length == case.length


@pytest.mark.parametrize("of", BENCHMARKS)
def test_questions_fit_their_clips(of: Benchmark) -> None:
    case = load_questions(benchmark=of)[-1]
    clip = case.clip()
    texts = {question.text for question in of.world.questions(clip, np.random.default_rng(0), None)}
    drawn = {"order", "both"}
    assert {asked.question.text for asked in case.questions if asked.question.kind not in drawn} <= texts
    seen = render_clip(clip, case.length)
    assert seen.pixels.shape == (of.lengths[-1], 3, 112, 112)
    for asked in case.questions:
        assert all((seen.owners == thing + 1).any() for thing in asked.question.about)


@pytest.mark.parametrize("of", BENCHMARKS)
@pytest.mark.parametrize("limit", [1, 9, 108, 200, 216])
def test_the_first_questions_are_even(of: Benchmark, limit: int) -> None:
    chosen = load_questions(limit, benchmark=of)
    assert numbers(chosen) == list(range(limit))
    by_kind = Counter(kind for (_, kind), count in places(chosen).items() for _ in range(count))
    by_cell = Counter(cell for (cell, _), count in places(chosen).items() for _ in range(count))
    assert max(by_kind.values()) - min(by_kind[kind] for kind in of.kinds) <= 1
    assert max(by_cell.values()) - min(by_cell[cell] for cell in range(len(of.cells))) <= 3


def test_parts() -> None:
    assert {asked.question.kind for case in load_questions(kinds=["read"]) for asked in case.questions} == {"read"}
    assert {case.length for case in load_questions(lengths=[64])} == {64}
    assert len(numbers(load_questions(lengths=[64]))) == QUESTIONS // 4
    assert set(numbers(load_questions(5, kinds=["count", "order"]))) <= set(
        numbers(load_questions(kinds=["count", "order"]))
    )


def test_another_world_is_noticed() -> None:
    case = replace(load_questions(1)[0], benchmark=benchmark(seed=OFFICIAL.seed + 1))
    with pytest.raises(InputError, match="other clips"):
        case.clip()


def test_another_seed_has_other_questions_by_the_same_design() -> None:
    of = benchmark(seed=1000)
    assert not of.official
    cases = list(draw_questions(1, of, rounds=2))
    assert {case.cell for case in cases} == {1}
    assert Counter(asked.question.kind for case in cases for asked in case.questions) == dict.fromkeys(KINDS, 2)
    for case in cases:
        assert case.clip().length == case.length == 8
    official = {case.digest for case in load_questions() if case.cell == 1}
    assert official.isdisjoint(case.digest for case in cases)


@pytest.mark.parametrize(
    ("arguments", "words"), [((3,), "version is 3"), ((1, 11), "seed is 11"), ((1, -1), "seed is -1")]
)
def test_what_is_refused(arguments: tuple[int, ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        benchmark(*arguments)
