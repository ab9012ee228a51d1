"""Tables about Tango: its parts, its hyper-parameters, the paper and the release, and pruning inside the model."""

from collections.abc import Iterator
from itertools import product
from typing import Any

from tangovlm import Tango, registry

from ..runs import SALIENCIES, Run, build_run
from .options import Options


def ablation(retention: float, _: Options) -> Iterator[Run]:
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


def bases(retention: float, _: Options) -> Iterator[Run]:
    """Frequency bases of ST-RoPE."""
    for base_time, base_space in product((1e2, 1e3, 1e4, 1e5), (1e2, 1e3, 1e4)):
        label = f"time {base_time:.0f}, space {base_space:.0f}"
        yield build_run("tango", retention, label=label, base_time=base_time, base_space=base_space)


def expansion(retention: float, _: Options) -> Iterator[Run]:
    """Candidates per salient token."""
    for factor in (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0):
        yield build_run("tango", retention, label=f"expansion {factor:g}", expansion=factor)


def placement(retention: float, _: Options) -> Iterator[Run]:
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


def pairs(retention: float, _: Options) -> Iterator[Run]:
    """Pruning inside the language model, and the same methods before it alone."""
    for name in ("tango", "tango+tango-fastv", "holitom", "holitom+holitom-merge"):
        yield build_run(name, retention)
    for name, cls in registry.methods().items():
        if getattr(cls, "stage", None) == "in-llm":
            yield build_run(name, retention)
