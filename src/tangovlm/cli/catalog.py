"""Methods and model families as lists show them.

`tangovlm methods` and `tangovlm models` read them from `catalog.json`, because the registry imports torch and
transformers, which takes seconds. `scripts/readme_tables.py` writes that file from the registry, and a test compares
both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("catalog.json")


@dataclass(frozen=True)
class MethodCard:
    """A registered method.

    Parameters
    ----------
    stage: "pre-llm" or "in-llm".
    reads_question: whether the selection depends on the text of the prompt.
    adaptive: whether the content can decide how many tokens are kept, see `tangovlm.method`.
    positions: position ids of the kept tokens unless the user or the family fixes them; None for a method inside the
        model, which renumbers or keeps them at each cut.
    signals: what it reads in addition to the features; a saliency by the kind that it is designed for, "attn" or
        "p-attn".
    parameters: its fields with their defaults.
    """

    name: str
    stage: str
    reads_question: bool
    adaptive: bool
    positions: str | None
    signals: tuple[str, ...]
    paper: str
    official_repo: str
    parameters: dict[str, Any]

    @property
    def reads(self) -> str:
        """What it reads, in words."""
        return ", ".join([*self.signals, *(["the question"] if self.reads_question else [])]) or "features only"


@dataclass(frozen=True)
class ModelCard:
    """A registered family.

    Parameters
    ----------
    architectures: names of model classes, as in a checkpoint's config.
    signals: what methods can read in addition to the features; saliency by its kinds, the family's default first.
    tested: uses that the tests cover for the family, in the order of `models.common.family.FEATURES`.
    untested: the other uses.
    checkpoints: Hugging Face ids of published checkpoints.
    served: whether the vLLM plug-in supports it.
    prunes_images: whether images can be pruned too.
    """

    family: str
    architectures: tuple[str, ...]
    signals: tuple[str, ...]
    tested: tuple[str, ...]
    untested: tuple[str, ...]
    checkpoints: tuple[str, ...]
    module: str
    served: bool
    prunes_images: bool = False

    @property
    def tested_in(self) -> str:
        """`tested` in words: "all", "none", or "all but" the uses that are not tested."""
        if not self.untested:
            return "all"
        return "all but " + ", ".join(self.untested) if self.tested else "none"


@dataclass(frozen=True)
class Catalog:
    """All registered methods, in the order of the registry, and all families, sorted by name, each once."""

    methods: tuple[MethodCard, ...]
    models: tuple[ModelCard, ...]

    def as_json(self) -> str:
        """The text of `FILE`."""
        return json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"


def saved() -> Catalog:
    """The catalog of `FILE`."""
    text: Mapping[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    methods = (MethodCard(**{name: _tuples(value) for name, value in card.items()}) for card in text["methods"])
    models = (ModelCard(**{name: _tuples(value) for name, value in card.items()}) for card in text["models"])
    return Catalog(tuple(methods), tuple(models))


def registered() -> Catalog:
    """The catalog of the registry; imports every method and family."""
    from tangovlm import registry

    architectures: dict[Any, list[str]] = {}
    for architecture, family in registry.families().items():
        architectures.setdefault(family, []).append(architecture)
    models = [_model(family, names) for family, names in architectures.items()]
    return Catalog(
        methods=tuple(_method(name) for name in registry.methods()),
        models=tuple(sorted(models, key=lambda card: card.family)),
    )


def _method(name: str) -> MethodCard:
    from tangovlm.methods import build

    from .asking import hyper_parameters

    pruner: Any = build.method(name)
    return MethodCard(
        name=name,
        stage=pruner.stage,
        reads_question=pruner.reads_question,
        adaptive=bool(getattr(pruner, "adaptive_fields", {})),
        positions=getattr(pruner, "positions", None),
        signals=tuple(sorted(pruner.signal if need == "saliency" else need for need in pruner.needs)),
        paper=pruner.paper,
        official_repo=pruner.official_repo,
        parameters=hyper_parameters(pruner),
    )


def _model(family: Any, architectures: list[str]) -> ModelCard:
    from tangovlm.models.common.family import FEATURES
    from tangovlm.serve.model_registry import SERVED_MODELS

    kinds = list(family.signals.saliency_kinds) if "saliency" in family.signals.provides else []
    return ModelCard(
        family=family.name,
        architectures=tuple(architectures),
        signals=(*kinds, *sorted(family.signals.provides - {"saliency"})),
        tested=tuple(feature for feature in FEATURES if feature in family.tested),
        untested=tuple(feature for feature in FEATURES if feature not in family.tested),
        checkpoints=tuple(family.checkpoints),
        module=family.__module__,
        served=any(name in SERVED_MODELS for name in (*architectures, *family.wholes)),
        prunes_images=family.prunes_images,
    )


def _tuples(value: Any) -> Any:
    """The value with tuples for the lists that JSON makes of them."""
    if isinstance(value, list):
        return tuple(map(_tuples, value))
    return {key: _tuples(part) for key, part in value.items()} if isinstance(value, dict) else value
