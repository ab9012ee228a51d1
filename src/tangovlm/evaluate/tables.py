"""The paper's tables as lists of runs, for `tangovlm eval --table NAME`."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any, Self

from tangovlm import Tango, registry
from tangovlm.budget import exact
from tangovlm.errors import InputError
from tangovlm.methods.build import plan
from tangovlm.methods.common.segments import similarity_threshold
from tangovlm.tiny.synthetic.world import LENGTHS

from .runs import SALIENCIES, Run, build_run, percent, unpruned_run
from .tangoworld import OFFICIAL, Benchmark

_CONTENT_INDEPENDENT = ("uniform", "random")
"""Methods that do not read the tokens; they are listed last."""
FRAMES_METHODS = ("tango", "flashvid", "fastvid", "visionzip", "uniform")


@dataclass(frozen=True)
class Table:
    """Runs to compare.

    Parameters
    ----------
    name: of the file.
    title: for the reader.
    runs: in order, the unpruned model first; each is compared with it and with Tango in its group.
    lengths: of the clips, in moments; None for all.
    unreachable: runs that the model's layers cannot reach, with the reason; see `within`.
    """

    name: str
    title: str
    runs: tuple[Run, ...]
    lengths: tuple[int, ...] | None = None
    unreachable: tuple[tuple[Run, str], ...] = ()

    def within(self, layers: int) -> Self:
        """Move the runs that a language model of so many layers cannot reach to `unreachable`."""
        reached, unreachable = [], list(self.unreachable)
        for each in self.runs:
            try:
                plan(each.pruner, layers)
            except InputError as error:
                unreachable.append((each, str(error)))
            else:
                reached.append(each)
        return replace(self, runs=tuple(reached), unreachable=tuple(unreachable))

    def reference(self, of: Run) -> Run | None:
        """Tango with its defaults in the same group and with the same number of frames; None if there is none."""
        group = (run for run in self.runs if (run.group, run.frames) == (of.group, of.frames))
        return next(filter(_is_plain_tango, group), None)


def custom(names: Sequence[str], retentions: Sequence[float], params: dict[str, Any]) -> Table:
    """Methods by name, each at every retention, all with the same parameters."""
    chosen = "".join(f", {key}={value}" for key, value in params.items())
    runs = [build_run(name, retention, label=name + chosen, **params) for retention in retentions for name in names]
    return Table("runs", "Chosen methods", _distinct((unpruned_run(), *runs)))


def table(name: str, retentions: Sequence[float] = (), methods: Sequence[str] = (), of: Benchmark = OFFICIAL) -> Table:
    """A table of the paper.

    Parameters
    ----------
    retentions: replace those of the table.
    methods: replace those of the table, if it compares methods.
    of: the benchmark, which has the lengths of the clips.

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
    lengths = _LENGTHS[build](of) if build in _LENGTHS else None
    return Table(name, title, _distinct((unpruned_run(), *runs)), lengths)


def names() -> tuple[str, ...]:
    """The names of all tables."""
    return tuple(_TABLES)


def _methods(retention: float, chosen: tuple[str, ...]) -> Iterator[Run]:
    """Every method before the language model, the content-independent ones last."""
    known = [name for name, cls in registry.methods().items() if getattr(cls, "stage", "pre-llm") == "pre-llm"]
    ordered = sorted(known, key=lambda name: (name in _CONTENT_INDEPENDENT, name != "tango", name))
    for name in chosen or ordered:
        if name == "topk":
            for signal in SALIENCIES:
                yield build_run(name, retention, label=f"{name}, {signal}", signal=signal)
        else:
            yield build_run(name, retention)


def _ablation(retention: float, _: tuple[str, ...]) -> Iterator[Run]:
    """From the most salient tokens of each frame to Tango, adding one part at a time; then Tango without one part."""
    for signal in SALIENCIES[::-1]:
        yield build_run("topk", retention, label=f"top-k, {signal}", signal=signal)
    top: dict[str, Any] = {"diversity": False, "merge": False, "context_ratio": 0.0, "st_rope": False}
    for label, changes in (
        ("top-k in segments, what stays averaged; attn", top | {"saliency": "attn"}),
        ("top-k in segments, what stays averaged; p-attn", top),
        ("+ diversity; attn", top | {"saliency": "attn", "diversity": True}),
        ("+ diversity; p-attn", top | {"diversity": True}),
        ("+ merging of what changes = Tango without ST-RoPE", {"st_rope": False}),
        ("+ ST-RoPE = Tango", {}),
        ("merging without diversity or ST-RoPE", {"diversity": False, "st_rope": False}),
        ("Tango without diversity", {"diversity": False}),
        ("Tango without timestamps", {"timestamps": False}),
        ("Tango, attn", {"saliency": "attn"}),
        ("Tango, segments as FastVID", {"segmentation": "fastvid"}),
    ):
        yield build_run("tango", retention, label=label, **changes)


def _bases(retention: float, _: tuple[str, ...]) -> Iterator[Run]:
    for base_time, base_space in product((1e2, 1e3, 1e4, 1e5), (1e2, 1e3, 1e4)):
        label = f"time {base_time:.0f}, space {base_space:.0f}"
        yield build_run("tango", retention, label=label, base_time=base_time, base_space=base_space)


def _expansion(retention: float, _: tuple[str, ...]) -> Iterator[Run]:
    for expansion in (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0):
        yield build_run("tango", retention, label=f"expansion {expansion:g}", expansion=expansion)


def _pairs(retention: float, _: tuple[str, ...]) -> Iterator[Run]:
    """Pruning inside the language model, and the same methods before it alone."""
    for name in ("tango", "tango+tango-fastv", "holitom", "holitom+holitom-merge"):
        yield build_run(name, retention)
    for name, cls in registry.methods().items():
        if getattr(cls, "stage", None) == "in-llm":
            # The retention of a method that no pair has is that of the remaining tokens, not the mean over the layers.
            label = name if getattr(cls, "in_pairs", True) else f"{name}, {percent(retention)} from its layer on"
            yield build_run(name, retention, label=label)


def _frames(retention: float, chosen: tuple[str, ...]) -> Iterator[Run]:
    """The same number of tokens from fewer frames; `retention` refers to the longest videos.

    Thresholds that depend on the retention are those of the longest videos too, so that only the frames change.
    """
    known = registry.methods()
    threshold = similarity_threshold(retention)
    longest = max(LENGTHS)
    budget = f"as many tokens as {percent(retention)} of {longest} frames"
    for frames in LENGTHS[:-1]:
        yield unpruned_run(frames, f"all tokens, {frames} frames")
    for name in chosen or [name for name in FRAMES_METHODS if name in known]:
        for frames in LENGTHS:
            share = float(exact(retention) * longest / frames)
            if share <= 1:
                fixed = {"segment_threshold": threshold} if follows_retention(name) else {}
                yield build_run(name, share, label=f"{name}, {frames} frames", group=budget, frames=frames, **fixed)


def _placement(retention: float, _: tuple[str, ...]) -> Iterator[Run]:
    """The differences between paper, release and this library, one at a time, and the positions of kept tokens."""
    released: dict[str, Any] = {"exact": False, "placement": "release", "static_threshold": 0.8}
    for label, changes in (
        ("Tango", {}),
        ("the text of the paper", dict(Tango.paper.fixed)),
        ("the release", released),
        ("the release, each value at its place", released | {"placement": "consistent"}),
        ("Tango, misplaced as the release", {"placement": "release"}),
        ("Tango, counts of the release", {"exact": False}),
        ("Tango, plain means", {"anchor_weight": 0.0}),
        ("Tango, original positions", {"positions": "original"}),
    ):
        yield build_run("tango", retention, label=label, **changes)


def _distinct(runs: Iterable[Run]) -> tuple[Run, ...]:
    """The first of all runs with the same key, since their answers are equal."""
    by_key: dict[str, Run] = {}
    for each in runs:
        by_key.setdefault(each.key, each)
    return tuple(by_key.values())


def follows_retention(name: str) -> bool:
    """Whether a method's threshold depends on the equivalent retention."""
    return "equivalent_retention" in {field.name for field in fields(registry.methods()[name])}


def _is_plain_tango(each: Run) -> bool:
    if each.unpruned or not isinstance(each.pruner, Tango):
        return False
    # In a table of frames the threshold is set for the group.
    fixed: dict[str, Any] = {} if each.frames is None else {"segment_threshold": each.pruner.segment_threshold}
    return each.key == build_run("tango", each.pruner.retention, frames=each.frames, **fixed).key


_TABLES: dict[str, tuple[str, tuple[float, ...], Callable[[float, tuple[str, ...]], Iterator[Run]]]] = {
    "methods": ("Methods before the language model", (0.02, 0.05, 0.10, 0.15, 0.20), _methods),
    "ablation": ("Parts of Tango", (0.02, 0.05, 0.10), _ablation),
    "bases": ("Frequency bases of ST-RoPE", (0.05, 0.10), _bases),
    "expansion": ("Candidates per salient token", (0.02, 0.05, 0.10), _expansion),
    "frames": ("Frames at a fixed number of tokens", (0.02, 0.05), _frames),
    "placement": ("The paper, the release and this implementation", (0.02, 0.05, 0.10, 0.20), _placement),
    "pairs": ("Pruning inside the language model", (0.10, 0.20, 0.30), _pairs),
}
"""Title, retentions, and the runs at one retention. On `tangoworld` methods differ below the paper's 0.10."""

_LENGTHS: dict[Callable[[float, tuple[str, ...]], Iterator[Run]], Callable[[Benchmark], tuple[int, ...]]] = {
    _frames: lambda _: LENGTHS[-1:],
    _pairs: lambda of: of.lengths[:2],
}
"""Lengths of the clips if not all are used: methods inside the model run question by question, which is slow."""
