"""`tangovlm models`: the registered model families, the signals they provide, and what each is tested with."""

from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from tangovlm import registry
from tangovlm.models.common.family import FEATURES
from tangovlm.serve.model_registry import SERVED_MODELS

from ..options import AsJson
from ..output import show, show_json


@dataclass(frozen=True)
class ModelCard:
    """A registered family as lists show it.

    Parameters
    ----------
    architectures: names of model classes, as in a checkpoint's config.
    signals: what methods can read in addition to the features; saliency by its kinds, the family's default first.
    tested: uses that the tests cover for the family, in the order of `models.common.family.FEATURES`.
    checkpoints: Hugging Face ids of published checkpoints.
    served: whether the vLLM plug-in supports it.
    """

    family: str
    architectures: list[str]
    signals: list[str]
    tested: list[str]
    checkpoints: list[str]
    module: str
    served: bool

    @property
    def tested_in(self) -> str:
        """`tested` in words: "all", "none", or "all but" the uses that are not tested."""
        untested = [feature for feature in FEATURES if feature not in self.tested]
        return ("all but " + ", ".join(untested) if self.tested else "none") if untested else "all"


def cards() -> list[ModelCard]:
    """All registered families, sorted by name, each once."""
    architectures: dict[Any, list[str]] = {}
    for architecture, family in registry.families().items():
        architectures.setdefault(family, []).append(architecture)
    found = [_card(family, names) for family, names in architectures.items()]
    return sorted(found, key=lambda card: card.family)


def models(as_json: AsJson = False) -> None:
    """List the model families: model classes, signals, tested uses, and published checkpoints."""
    if as_json:
        show_json([asdict(card) for card in cards()])
        return
    table = Table(show_lines=True, caption=f"all: {', '.join(FEATURES)}")
    for column in ("family", "model classes", "signals", "tested", "vLLM", "checkpoints"):
        table.add_column(column, overflow="fold")
    for card in cards():
        architectures, checkpoints = "\n".join(card.architectures), "\n".join(card.checkpoints)
        served = "yes" if card.served else "no"
        table.add_row(card.family, architectures, ", ".join(card.signals), card.tested_in, served, checkpoints)
    show(table)


def _card(family: Any, architectures: list[str]) -> ModelCard:
    kinds = list(family.signals.saliency_kinds) if "saliency" in family.signals.provides else []
    return ModelCard(
        family=family.name,
        architectures=architectures,
        signals=kinds + sorted(family.signals.provides - {"saliency"}),
        tested=[feature for feature in FEATURES if feature in family.tested],
        checkpoints=list(family.checkpoints),
        module=family.__module__,
        served=any(name in SERVED_MODELS for name in architectures),
    )
