"""The tables by name, for `tangovlm eval --table NAME`, and a table of chosen methods."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tangovlm.errors import InputError

from ..runs import Run, build_run, unpruned_run
from ..tangoworld import OFFICIAL, Benchmark
from . import adaptive, encode, methods, milonga, question, tango
from .comparison import AllEncoded, AllTokens, Comparison, Defaults, FixedCounts
from .options import Options
from .table import COMPARISONS, Table, distinct


@dataclass(frozen=True)
class _Recipe:
    """How a table is built.

    Parameters
    ----------
    title: for the reader.
    retentions: at which it is built by default. On `tangoworld` methods differ below the paper's 10 %.
    build: the runs at one retention.
    takes_methods: whether it compares methods, so that the user may choose them.
    lengths: the benchmark's lengths of clips that are used, as the bounds of a slice; None for all.
    """

    title: str
    retentions: tuple[float, ...]
    build: Callable[[float, Options], Iterator[Run]]
    takes_methods: bool = False
    lengths: tuple[int | None, int | None] | None = None
    comparisons: tuple[Comparison, ...] = COMPARISONS
    by_length: bool = False
    axis: Literal["tokens", "frames"] = "tokens"


_LONGEST, _SHORT = (-1, None), (0, 2)
"""Short clips where methods select by the question: they run question by question, which is slow."""
_TABLES: dict[str, _Recipe] = {
    "methods": _Recipe(
        "Methods before the language model",
        (0.02, 0.05, 0.10, 0.15, 0.20),
        methods.methods,
        takes_methods=True,
        comparisons=(*COMPARISONS, Defaults("milonga")),
    ),
    "milonga": _Recipe(
        "Parts of Milonga",
        (0.02, 0.05, 0.10, 0.20),
        milonga.ablation,
        comparisons=(AllTokens(), Defaults("milonga")),
    ),
    "adaptive": _Recipe(
        "Counts that follow the content",
        (0.20, 1.0),
        adaptive.adaptive,
        takes_methods=True,
        comparisons=(AllTokens(), FixedCounts(), FixedCounts(per_length=True)),
        by_length=True,
    ),
    "frames": _Recipe(
        "Frames at a fixed number of tokens",
        (0.02, 0.05),
        methods.frames,
        takes_methods=True,
        lengths=_LONGEST,
        comparisons=(AllTokens(), AllTokens(methods.USUAL_FRAMES), Defaults("tango")),
        axis="frames",
    ),
    "encode": _Recipe(
        "Frames that show nothing new are not encoded",
        (0.10,),
        encode.encode,
        takes_methods=True,
        comparisons=(AllTokens(), AllEncoded()),
    ),
    "question": _Recipe(
        "Methods that read the question",
        (0.02, 0.05, 0.10, 0.15, 0.20),
        question.question,
        takes_methods=True,
        lengths=_SHORT,
        comparisons=(*COMPARISONS, Defaults("milonga")),
    ),
    "ablation": _Recipe("Parts of Tango", (0.02, 0.05, 0.10), tango.ablation),
    "bases": _Recipe("Frequency bases of ST-RoPE", (0.05, 0.10), tango.bases),
    "expansion": _Recipe("Candidates per salient token", (0.02, 0.05, 0.10), tango.expansion),
    "placement": _Recipe("The paper, the release and this implementation", (0.02, 0.05, 0.10, 0.20), tango.placement),
    "pairs": _Recipe("Pruning inside the language model", (0.10, 0.20, 0.30), tango.pairs, lengths=_SHORT),
}


def custom(
    names: Sequence[str], retentions: Sequence[float], params: dict[str, Any], adaptive_counts: bool = False
) -> Table:
    """Methods by name, each at every retention, all with the same parameters.

    Parameters
    ----------
    adaptive_counts: let the content decide how many tokens are kept, see `tangovlm.method`.

    Raises
    ------
    TangoError: see `build_run`.
    """
    options = params | {"adaptive": True} if adaptive_counts else params
    chosen = "".join([", adaptive" * adaptive_counts, *(f", {key}={value}" for key, value in params.items())])
    runs = [build_run(name, retention, label=name + chosen, **options) for retention in retentions for name in names]
    return Table("runs", "Chosen methods", distinct((unpruned_run(), *runs)))


def table(name: str, retentions: Sequence[float] = (), methods: Sequence[str] = (), of: Benchmark = OFFICIAL) -> Table:
    """A table by name.

    Parameters
    ----------
    retentions: replace those of the table.
    methods: replace those of the table, if it compares methods.
    of: the benchmark, which has the lengths of the clips.

    Raises
    ------
    InputError: no such table, or methods for a table that compares settings of one method.
    """
    if name not in _TABLES:
        raise InputError(f"--table is {name!r}: choose one of {', '.join(_TABLES)}")
    recipe = _TABLES[name]
    if methods and not recipe.takes_methods:
        raise InputError(f"--table {name} compares settings of its own methods: leave --method out")
    options = Options(tuple(methods), of)
    runs = [run for retention in retentions or recipe.retentions for run in recipe.build(retention, options)]
    return Table(
        name,
        recipe.title,
        distinct((unpruned_run(), *runs)),
        lengths=None if recipe.lengths is None else of.lengths[slice(*recipe.lengths)],
        comparisons=recipe.comparisons,
        by_length=recipe.by_length,
        axis=recipe.axis,
    )


def names() -> tuple[str, ...]:
    """The names of all tables."""
    return tuple(_TABLES)
