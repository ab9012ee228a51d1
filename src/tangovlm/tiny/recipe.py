"""In what the training of the two embedded models differs: the world, the sizes, and the curriculum."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from .export import SECOND_WEIGHTS, WEIGHTS
from .model import FRAMES
from .synthetic.worlds import World, world


@dataclass(frozen=True)
class Level:
    """How much of a clip a lesson contains.

    Parameters
    ----------
    tokens: expected number of tokens of a clip, which sets the batch size; for whole clips, the maximum number kept.
    things: maximum number of things, or None for whole clips.
    all_things: fraction of the clips with all their things.
    cells: maximum number of cells of each thing.
    background: maximum number of additional random cells.
    frames: maximum number of frames of a clip; None for any.
    kinds: only questions of these kinds are asked, at original positions; empty for a mixture of all kinds.
    text_tokens: expected number of text tokens of a clip if it differs from that of the recipe.
    """

    tokens: int
    things: int | None = None
    all_things: float = 0.0
    cells: int = 0
    background: int = 0
    frames: int | None = None
    kinds: tuple[str, ...] = ()
    text_tokens: int | None = None


FEW = Level(tokens=8, things=3, all_things=0.1, cells=3)
FIRST_AND_LAST = Level(tokens=10, things=4, all_things=0.05, cells=2)
TIMES = replace(FIRST_AND_LAST, all_things=0.0, kinds=("when",), text_tokens=50)
SOME = Level(tokens=24, things=8, all_things=0.5, cells=4, background=6)
MORE = Level(tokens=60, things=8, all_things=0.8, cells=8, background=32)
THIN = (Level(tokens=128), Level(tokens=256))
LONG = (Level(tokens=256), Level(tokens=512), Level(tokens=1024))
WHOLE = (Level(tokens=512, frames=8), Level(tokens=1024, frames=16), Level(tokens=2048, frames=32), Level(tokens=4096))
_WIDE = (Level(tokens=1024, frames=16), Level(tokens=2048, frames=32), Level(tokens=2048), Level(tokens=4096))
_LONGEST = (Level(tokens=8192), Level(tokens=8192), Level(tokens=16384))
_TIMES = tuple(Level(tokens=each, kinds=("when", "span"), text_tokens=80) for each in (64, 256, 1024))
_SELDOM = (*_WIDE, *_WIDE, Level(tokens=8192))

Curriculum = tuple[tuple[float, tuple[Level, ...]], ...]
"""Fraction of the steps from which on a set of levels is used, and the set; a level may be in it several times."""


@dataclass(frozen=True)
class Recipe:
    """The training for one version of the world.

    Parameters
    ----------
    layers: of the language model at the end.
    first_layers: of the language model at the start.
    deepen_at: fraction of the steps after which the language model gets its other layers.
    positions: maximum number of positions of the language model.
    frames: number of frames that the model samples from a video by default.
    weights: directory of the checkpoint in the package.
    clips, held_out_clips: number of clips that are encoded for training and for measuring.
    train_lengths: lengths of the clips for training, which alternate.
    short_from, short_lengths: number of the clip from which on other lengths alternate. Short clips are quick to
        encode, and with too few clips the model learns by heart when things appear.
    shuffled: fraction of the clips whose scenes are put in random order.
    slowed: whether lessons of a few things are also at the positions of longer clips.
    tower_steps, language_steps: number of steps.
    curriculum: of the language stage.
    text_tokens: expected number of text tokens of a clip in a lesson, which sets the batch size.
    late: kinds of question that are learnt late: all of a clip are asked.
    easy: fraction of the clips in which each other kind is asked once.
    described: fraction of the descriptions of each kind that are included; for the paths of movers it is higher.
    original_positions: fraction of the clips whose tokens keep their position ids in the full clip; first for lessons
        of some things, then for lessons of whole clips.
    warm_rate: factor on the learning rate of the language stage if it starts from trained weights.
    warm_begin: fraction of the curriculum that is skipped in that case.
    """

    world: World
    layers: int
    first_layers: int
    deepen_at: float
    positions: int
    frames: int
    weights: Path
    clips: int
    held_out_clips: int
    train_lengths: tuple[int, ...]
    short_from: int
    short_lengths: tuple[int, ...]
    shuffled: float
    slowed: bool
    tower_steps: int
    language_steps: int
    curriculum: Curriculum
    text_tokens: int
    late: tuple[str, ...]
    easy: float
    described: Mapping[str, float]
    original_positions: tuple[float, float]
    warm_rate: float
    warm_begin: float


_RECIPES = (
    Recipe(
        world=world(1),
        layers=4,
        first_layers=4,
        deepen_at=1.0,
        positions=8192,
        frames=FRAMES,
        weights=WEIGHTS,
        clips=1600,
        held_out_clips=160,
        train_lengths=world(1).lengths,
        short_from=1600,
        short_lengths=world(1).lengths,
        shuffled=0.0,
        slowed=False,
        tower_steps=4500,
        language_steps=4500,
        curriculum=(
            (0.0, (FEW,)),
            (0.25, (FEW, SOME, MORE)),
            (0.45, (SOME, MORE, *THIN)),
            (0.60, (MORE, *THIN, *LONG)),
            (0.80, (*THIN, *LONG, *WHOLE)),
        ),
        text_tokens=90,
        late=("count", "motion", "order", "brief"),
        easy=0.6,
        described={"describe": 0.4, "trace": 0.3, "list": 0.9},
        original_positions=(0.25, 0.25),
        warm_rate=0.5,
        warm_begin=0.45,
    ),
    Recipe(
        world=world(2),
        layers=12,
        first_layers=4,
        deepen_at=0.77,
        positions=32768,
        frames=64,
        weights=SECOND_WEIGHTS,
        clips=2500,
        held_out_clips=40,
        train_lengths=(16, 32, 64, 16, 32, 128, 64, 32, 16, 256),
        short_from=900,
        short_lengths=(16, 32, 16, 32, 64),
        shuffled=0.6,
        slowed=True,
        tower_steps=1500,
        language_steps=11000,
        curriculum=(
            (0.0, (TIMES,)),
            (0.05, (TIMES, FIRST_AND_LAST, FIRST_AND_LAST, SOME)),
            (0.47, (TIMES, FIRST_AND_LAST, MORE, *THIN * 2, *LONG * 2, *_WIDE[:3], *_TIMES[:2])),
            (0.60, (*THIN * 15, *LONG * 15, *_WIDE * 4, *_LONGEST, *_TIMES * 2)),
            (0.77, (*THIN * 15, *LONG * 12, *_SELDOM, *_TIMES)),
        ),
        text_tokens=150,
        late=("count", "motion", "order", "brief", "change", "when"),
        easy=0.4,
        described={"describe": 0.15, "trace": 0.2, "list": 0.6, "look": 0.6, "span": 0.4},
        original_positions=(0.9, 0.6),
        warm_rate=1.0,
        warm_begin=0.0,
    ),
)


def recipe(version: int = 1) -> Recipe:
    """The recipe of a version of the world."""
    return {each.world.version: each for each in _RECIPES}[version]
