"""`tangovlm methods`: the registered methods, what they read, and their hyper-parameters."""

from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from tangovlm import registry
from tangovlm.methods import build

from ..asking import hyper_parameters
from ..options import AsJson
from ..output import show, show_json


@dataclass(frozen=True)
class MethodCard:
    """A registered method as lists show it.

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


def cards() -> list[MethodCard]:
    """All registered methods, in the order of the registry."""
    return [_card(name) for name in registry.methods()]


def methods(as_json: AsJson = False) -> None:
    """List the pruning methods: stage, signals, paper, and settings with their defaults."""
    if as_json:
        show_json([asdict(card) for card in cards()])
        return
    table = Table(show_lines=True)
    for column in ("method", "stage", "reads", "paper", "settings (defaults)"):
        table.add_column(column, overflow="fold")
    for card in cards():
        chosen = ", ".join(f"{name}={value!r}" for name, value in card.parameters.items())
        table.add_row(card.name, card.stage, card.reads, card.paper or "none", chosen)
    show(table)


def _card(name: str) -> MethodCard:
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
