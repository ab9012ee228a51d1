"""The design of the benchmark: its versions, cells, kinds of question and seeds.

Every version has a world of its own (`tiny.synthetic.worlds`), and a version never changes. With another seed than the
official one, other clips and questions are drawn by the same design, for development.
"""

from dataclasses import dataclass
from itertools import product
from pathlib import Path

from tangovlm.errors import InputError
from tangovlm.tiny.synthetic.world import PACES, Pace
from tangovlm.tiny.synthetic.worlds import World, world

NAME = "tangoworld"
_SEEDS = {1: 4096, 2: 8192}
"""By version: the official seed, which no training uses."""
_MODELS = {1: "tangovlm-tiny", 2: "tangovlm-tiny-2"}
_ROUNDS = {1: 10, 2: 6}
VERSIONS = tuple(_SEEDS)
TRAINING_SEEDS = frozenset({0, 1, 2, 7, 8, 11, 12, 13, 17, 21, 22, 31, 32, 99})
"""Seeds of the recipe of the embedded models."""


@dataclass(frozen=True)
class Benchmark:
    """A version of the benchmark, or another set of questions by its design.

    Parameters
    ----------
    version: one of `VERSIONS`.
    seed: of the clips and questions, see `benchmark`.
    """

    version: int
    seed: int

    @property
    def official(self) -> bool:
        """Whether these are the questions that results are reported on."""
        return self.seed == _SEEDS[self.version]

    @property
    def suffix(self) -> str:
        """What file names of results add to the name of their table; empty for the official version 1."""
        version = "" if self.version == 1 else f"-{self.version}"
        return version if self.official else f"{version}-seed{self.seed}"

    @property
    def file(self) -> Path:
        """The file of the official questions."""
        return Path(__file__).parent / f"{NAME}-{self.version}.jsonl"

    @property
    def model(self) -> str:
        """Name of the embedded model that is trained on this version."""
        return _MODELS[self.version]

    @property
    def world(self) -> World:
        """The world of the clips."""
        return world(self.version)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of question."""
        return self.world.kinds

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths of the clips in moments."""
        return self.world.lengths

    @property
    def cells(self) -> tuple[tuple[int, Pace], ...]:
        """Length and pace of every cell of the design."""
        return tuple(product(self.lengths, PACES))

    @property
    def rounds(self) -> int:
        """Number of questions of each kind in each cell."""
        return _ROUNDS[self.version]

    @property
    def round_size(self) -> int:
        """Number of questions in a round."""
        return len(self.cells) * len(self.kinds)

    @property
    def size(self) -> int:
        """Number of questions."""
        return self.rounds * self.round_size

    def number(self, round_: int, cell: int, kind: int) -> int:
        """The number of a question: in a round, consecutive questions are of all kinds and of different cells."""
        return round_ * self.round_size + (cell - kind) % len(self.cells) * len(self.kinds) + kind


def benchmark(version: int = 1, seed: int | None = None) -> Benchmark:
    """The benchmark, or another set of questions by its design.

    Parameters
    ----------
    version: one of `VERSIONS`.
    seed: of the clips and questions; None for the official questions, which are stored in the package.

    Raises
    ------
    InputError: no such version; a negative seed, or one that training uses.

    Examples
    --------
    >>> benchmark().size, len(benchmark().cells), benchmark(seed=1000).official
    (1080, 12, False)
    """
    if version not in VERSIONS:
        raise InputError(f"the benchmark's version is {version}: choose from {', '.join(map(str, VERSIONS))}")
    if seed is None:
        return Benchmark(version, _SEEDS[version])
    if seed < 0 or seed in TRAINING_SEEDS:
        raise InputError(f"the seed is {seed}: give one from 0 that the model is not trained with, such as 1000")
    return Benchmark(version, seed)


OFFICIAL = benchmark()
"""The official questions of version 1."""
