"""In what the training of the two embedded models differs: the world, the sizes, and the curriculum."""

from dataclasses import dataclass

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
    """

    tokens: int
    things: int | None = None
    all_things: float = 0.0
    cells: int = 0
    background: int = 0
    frames: int | None = None


FEW = Level(tokens=8, things=3, all_things=0.1, cells=3)
SOME = Level(tokens=24, things=8, all_things=0.5, cells=4, background=6)
MORE = Level(tokens=60, things=8, all_things=0.8, cells=8, background=32)
THIN = (Level(tokens=128), Level(tokens=256))
LONG = (Level(tokens=256), Level(tokens=512), Level(tokens=1024))
WHOLE = (Level(tokens=512, frames=8), Level(tokens=1024, frames=16), Level(tokens=2048, frames=32), Level(tokens=4096))
_WIDE = (Level(tokens=1024, frames=16), Level(tokens=2048, frames=32), Level(tokens=2048), Level(tokens=4096))
_LONGEST = (Level(tokens=8192), Level(tokens=8192), Level(tokens=16384))
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
    clips, held_out_clips: number of clips that are encoded for training and for measuring.
    train_lengths: lengths of the clips for training, which alternate.
    tower_steps, language_steps: number of steps.
    curriculum: of the language stage.
    text_tokens: expected number of text tokens of a clip in a lesson, which sets the batch size.
    late: kinds of question that are learnt late, which are more frequent.
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
    clips: int
    held_out_clips: int
    train_lengths: tuple[int, ...]
    tower_steps: int
    language_steps: int
    curriculum: Curriculum
    text_tokens: int
    late: tuple[str, ...]
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
        clips=1600,
        held_out_clips=160,
        train_lengths=world(1).lengths,
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
        original_positions=(0.25, 0.25),
        warm_rate=0.5,
        warm_begin=0.45,
    ),
    Recipe(
        world=world(2),
        layers=12,
        first_layers=4,
        deepen_at=0.65,
        positions=32768,
        clips=900,
        held_out_clips=40,
        train_lengths=(16, 32, 64, 16, 32, 128, 64, 32, 16, 256),
        tower_steps=1500,
        language_steps=3400,
        curriculum=(
            (0.0, (FEW, SOME, MORE)),
            (0.10, (SOME, MORE, *THIN)),
            (0.25, (MORE, *THIN * 2, *LONG * 2, *_WIDE[:3])),
            (0.45, (*THIN * 15, *LONG * 15, *_WIDE * 4, *_LONGEST)),
            (0.65, (*THIN * 15, *LONG * 12, *_SELDOM)),
        ),
        text_tokens=180,
        late=("count", "motion", "order", "brief", "change", "next", "when"),
        original_positions=(0.75, 0.5),
        warm_rate=0.7,
        warm_begin=0.0,
    ),
)


def recipe(version: int = 1) -> Recipe:
    """The recipe of a version of the world."""
    return {each.world.version: each for each in _RECIPES}[version]
