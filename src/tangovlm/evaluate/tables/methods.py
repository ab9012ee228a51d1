"""Tables that compare methods: at equal numbers of tokens, and at equal numbers of tokens from more frames."""

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

from tangovlm import registry
from tangovlm.budget import exact
from tangovlm.methods.common.segments import similarity_threshold
from tangovlm.models.common.family import POSITIONS

from ..runs import SALIENCIES, Run, build_run, percent, unpruned_run
from .options import Options

_FIRST = ("milonga", "tango")
_LAST = ("random", "uniform")
"""Methods that do not read the tokens."""
_BOTH_POSITIONS = ("tango", "divprune", "forestprune", "unicomp")
"""Methods that are shown with both positions, besides those that keep the original ones by default."""
USUAL_FRAMES = 16
"""The usual number of frames of a video, which more frames for the same tokens are compared with."""


def methods(retention: float, options: Options) -> Iterator[Run]:
    """Every method before the language model, the content-independent ones last.

    A method has its own positions of kept tokens. Where they matter most, a second row has the other positions.
    """
    for name in options.methods or _pre_llm():
        for run in _variants(name, retention):
            yield run
            if run.pruner.name in _BOTH_POSITIONS or run.positions != "contiguous":
                other = next(each for each in POSITIONS if each != run.positions)
                yield build_run(name, retention, label=f"{run.label}, {other} positions", positions=other)


def frames(retention: float, options: Options) -> Iterator[Run]:
    """The same number of tokens from fewer frames; `retention` refers to the longest clips.

    Thresholds that depend on the retention are those of the longest clips too, so that only the frames change.
    """
    threshold = similarity_threshold(retention)
    *shorter, longest = options.benchmark.lengths
    budget = f"as many tokens as {percent(retention)} of {longest} frames"
    for count in shorter:
        yield unpruned_run(count, f"all tokens, {count} frames")
    for name in options.methods or _pre_llm():
        for count in options.benchmark.lengths:
            share = float(exact(retention) * longest / count)
            if share <= 1:
                fixed = {"segment_threshold": threshold} if follows_retention(name) else {}
                for run in _variants(name, share, group=budget, frames=count, **fixed):
                    yield replace(run, label=f"{run.label}, {count} frames", series=run.label)


def follows_retention(name: str) -> bool:
    """Whether a method's threshold depends on the equivalent retention."""
    return "equivalent_retention" in {field.name for field in fields(registry.methods()[name])}


def _pre_llm() -> list[str]:
    """Methods before the language model that do not read the question, in the order of the tables."""
    found = [
        name
        for name, cls in registry.methods().items()
        if getattr(cls, "stage", "pre-llm") == "pre-llm" and not getattr(cls, "reads_question", False)
    ]
    return sorted(found, key=lambda name: (name in _LAST, name not in _FIRST, name))


def _variants(name: str, retention: float, **options: Any) -> Iterator[Run]:
    """A method with its defaults; with each signal if it does nothing but rank tokens by it."""
    if name == "topk":
        for signal in SALIENCIES:
            yield build_run(name, retention, label=f"{name}, {signal}", signal=signal, **options)
    else:
        yield build_run(name, retention, **options)
