"""The tables of the paper as lists of runs; `tangovlm eval --table NAME`."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from tangovlm import registry
from tangovlm.budget import exact
from tangovlm.errors import InputError
from tangovlm.tiny.world import LENGTHS

from .runs import SALIENCIES, Run, percent, run, unpruned

_BLIND = ("uniform", "random")
"""They look at nothing, and come last."""
_FRAMES_METHODS = ("tango", "flashvid", "fastvid", "visionzip", "uniform")


@dataclass(frozen=True)
class Table:
    """Runs to compare.

    Parameters
    ----------
    name, title: for the file and for the reader.
    runs: in order; the unpruned model first, each against it and against Tango in its group.
    lengths: of the clips that are asked about.
    """

    name: str
    title: str
    runs: tuple[Run, ...]
    lengths: tuple[int, ...] = LENGTHS

    def reference(self, of: Run) -> Run | None:
        """Tango as it is, in the same group and at as many frames; None if there is none."""
        found = (run for run in self.runs if (run.group, run.frames) == (of.group, of.frames) and _is_plain_tango(run))
        return next(found, None)


def custom(names: Sequence[str], retentions: Sequence[float], params: dict[str, Any]) -> Table:
    """Methods by name, each at every retention, all with the same parameters."""
    chosen = "".join(f", {key}={value}" for key, value in params.items())
    runs = [run(name, retention, label=name + chosen, **params) for retention in retentions for name in names]
    return Table("runs", "Chosen methods", _first_of_each((unpruned(), *runs)))


def table(name: str, retentions: Sequence[float] = (), methods: Sequence[str] = ()) -> Table:
    """A table of the paper.

    Parameters
    ----------
    retentions: in place of the table's own.
    methods: in place of all that the table compares; for the tables that compare methods.

    Raises
    ------
    InputError: no such table, or methods for a table that compares settings of Tango.
    """
    if name not in _TABLES:
        raise InputError(f"--table is {name!r}: choose one of {', '.join(_TABLES)}")
    title, defaults, build = _TABLES[name]
    if methods and build not in (_methods, _frames):
        raise InputError(f"--table {name} compares settings of Tango: leave --method out")
    runs = [each for r in retentions or defaults for each in build(r, tuple(methods))]
    lengths = (max(LENGTHS),) if build is _frames else LENGTHS
    return Table(name, title, _first_of_each((unpruned(), *runs)), lengths)


def names() -> tuple[str, ...]:
    """All tables."""
    return tuple(_TABLES)


def _methods(retention: float, chosen: tuple[str, ...]) -> Iterator[Run]:
    """Every method that works before the language model, the blind ones last."""
    known = [name for name, cls in registry.methods().items() if getattr(cls, "stage", "pre-llm") == "pre-llm"]
    ordered = sorted(known, key=lambda name: (name in _BLIND, name != "tango", name))
    for name in chosen or ordered:
        if name == "topk":
            for signal in SALIENCIES:
                yield run(name, retention, label=f"{name}, {signal}", signal=signal)
        else:
            yield run(name, retention)


def _ablation(retention: float, _: tuple[str, ...]) -> Iterator[Run]:
    """From the most salient tokens of each frame to Tango, part by part; then Tango with one part changed."""
    for signal in SALIENCIES[::-1]:
        yield run("topk", retention, label=f"top-k, {signal}", signal=signal)
    top: dict[str, Any] = {"diversity": False, "merge": False, "context_ratio": 0.0, "st_rope": False}
    for label, changes in (
        ("top-k in segments, what stays averaged; attn", top | {"saliency": "attn"}),
        ("top-k in segments, what stays averaged; p-attn", top),
        ("+ diversity", top | {"diversity": True}),
        ("+ merging of what changes", {"st_rope": False}),
        ("+ ST-RoPE = Tango", {}),
        ("Tango, attn", {"saliency": "attn"}),
        ("Tango, no diversity", {"diversity": False}),
        ("Tango, segments as FastVID", {"segmentation": "fastvid"}),
        ("Tango, frame numbers for seconds", {"timestamps": False}),
    ):
        yield run("tango", retention, label=label, **changes)


def _bases(retention: float, _: tuple[str, ...]) -> Iterator[Run]:
    for base_time, base_space in product((1e2, 1e3, 1e4, 1e5), (1e2, 1e3, 1e4)):
        label = f"time {base_time:.0f}, space {base_space:.0f}"
        yield run("tango", retention, label=label, base_time=base_time, base_space=base_space)


def _expansion(retention: float, _: tuple[str, ...]) -> Iterator[Run]:
    for expansion in (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0):
        yield run("tango", retention, label=f"expansion {expansion:g}", expansion=expansion)


def _frames(retention: float, chosen: tuple[str, ...]) -> Iterator[Run]:
    """The same number of tokens from fewer frames; the retention is that of the most frames."""
    known = registry.methods()
    longest = max(LENGTHS)
    budget = f"as many tokens as {percent(retention)} of {longest} frames"
    for frames in LENGTHS[:-1]:
        yield unpruned(frames, f"all tokens, {frames} frames")
    for name in chosen or [name for name in _FRAMES_METHODS if name in known]:
        for frames in LENGTHS:
            share = float(exact(retention) * longest / frames)
            if share <= 1:
                yield run(name, share, label=f"{name}, {frames} frames", group=budget, frames=frames)


def _placement(retention: float, _: tuple[str, ...]) -> Iterator[Run]:
    """What the release does otherwise, one difference at a time, and where the kept tokens stand."""
    released: dict[str, Any] = {"exact": False, "placement": "release", "static_threshold": 0.8}
    for label, changes in (
        ("Tango", {}),
        ("the release", released),
        ("the release, each value at its place", released | {"placement": "consistent"}),
        ("Tango, misplaced as the release", {"placement": "release"}),
        ("Tango, counts of the release", {"exact": False}),
        ("Tango, plain means", {"anchor_weight": 0.0}),
        ("Tango, original positions", {"positions": "original"}),
    ):
        yield run("tango", retention, label=label, **changes)


def _first_of_each(runs: Iterable[Run]) -> tuple[Run, ...]:
    """Runs whose answers can differ; what all retentions share, or what keeps all tokens, comes once."""
    found: dict[str, Run] = {}
    for each in runs:
        found.setdefault(each.key, each)
    return tuple(found.values())


def _is_plain_tango(each: Run) -> bool:
    return not each.unpruned and each.key == run("tango", each.pruner.retention, frames=each.frames).key


_TABLES: dict[str, tuple[str, tuple[float, ...], Callable[[float, tuple[str, ...]], Iterator[Run]]]] = {
    "methods": ("Methods before the language model", (0.02, 0.05, 0.10, 0.15, 0.20), _methods),
    "ablation": ("Parts of Tango", (0.02, 0.05, 0.10), _ablation),
    "bases": ("Frequency bases of ST-RoPE", (0.05, 0.10), _bases),
    "expansion": ("Candidates per salient token", (0.02, 0.05, 0.10), _expansion),
    "frames": ("Frames at a fixed number of tokens", (0.02, 0.05), _frames),
    "placement": ("The release and this implementation", (0.02, 0.05, 0.10, 0.20), _placement),
}
"""Title, retentions, and the runs at one retention. Below the paper's 0.10 this world separates methods."""
