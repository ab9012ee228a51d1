"""`tangovlm models`: every family of models that is registered, the signals it gives, and what it is tested in."""

from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer
from rich.table import Table

from tangovlm import registry
from tangovlm.models.common.family import FEATURES
from tangovlm.serve.models.served import MODELS as SERVED

from ..output import show, show_json


@dataclass(frozen=True)
class ModelCard:
    """A registered family as the lists show it."""

    family: str
    architectures: list[str]
    """Names of model classes, as in a checkpoint's config."""
    signals: list[str]
    """What methods can read beside the features; a saliency by its kind, the family's own choice first."""
    tested: list[str]
    """Uses in which the family is tested, in the order of `models.common.family.FEATURES`."""
    checkpoints: list[str]
    """Hub ids of published checkpoints."""
    module: str
    served: bool
    """Whether the plug-in for vLLM serves it."""

    @property
    def tested_in(self) -> str:
        """`tested` in words: "all", or "all but" those that the tests know but not with this family."""
        untested = [feature for feature in FEATURES if feature not in self.tested]
        return ("all but " + ", ".join(untested) if self.tested else "none") if untested else "all"


def cards() -> list[ModelCard]:
    """All registered families, by name; one that is registered for several model classes once."""
    architectures: dict[Any, list[str]] = {}
    for architecture, family in registry.families().items():
        architectures.setdefault(family, []).append(architecture)
    found = [_card(family, names) for family, names in architectures.items()]
    return sorted(found, key=lambda card: card.family)


def models(as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False) -> None:
    """List the families of models: their classes, signals, what they are tested in, published checkpoints."""
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
    kinds = list(family.saliency_kinds) if "saliency" in family.provides else []
    return ModelCard(
        family=family.name,
        architectures=architectures,
        signals=kinds + sorted(family.provides - {"saliency"}),
        tested=[feature for feature in FEATURES if feature in family.tested],
        checkpoints=list(family.checkpoints),
        module=family.__module__,
        served=any(name in SERVED for name in architectures),
    )
