"""`tangovlm methods`: every method that is registered, what it needs, and its settings."""

from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any

import typer
from rich.table import Table

from tangovlm import registry
from tangovlm.methods import build

from ..output import show, show_json


@dataclass(frozen=True)
class MethodCard:
    """A registered method as the lists show it; `parameters` are its fields with their defaults."""

    name: str
    stage: str
    """"pre-llm" or "in-llm"."""
    signals: tuple[str, ...]
    """What it reads beside the features; a saliency by the attention that it is meant to be, "attn" or "p-attn"."""
    paper: str
    official_repo: str
    parameters: dict[str, Any]


def cards() -> list[MethodCard]:
    """All registered methods, in the order of the registry."""
    return [_card(name) for name in registry.methods()]


def methods(as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False) -> None:
    """List the methods: where each works, what it reads, its paper, its settings with their defaults."""
    if as_json:
        show_json([asdict(card) for card in cards()])
        return
    table = Table(show_lines=True)
    for column in ("method", "stage", "signals", "paper", "settings (defaults)"):
        table.add_column(column, overflow="fold")
    for card in cards():
        chosen = ", ".join(f"{name}={value!r}" for name, value in card.parameters.items())
        table.add_row(card.name, card.stage, ", ".join(card.signals) or "features only", card.paper or "none", chosen)
    show(table)


def settings(pruner: Any) -> dict[str, Any]:
    """The fields of a method that can be chosen, with their values."""
    return {field.name: getattr(pruner, field.name) for field in fields(pruner) if field.init}


def _card(name: str) -> MethodCard:
    pruner: Any = build.method(name)
    return MethodCard(
        name=name,
        stage=pruner.stage,
        signals=tuple(sorted(pruner.signal if need == "saliency" else need for need in pruner.needs)),
        paper=pruner.paper,
        official_repo=pruner.official_repo,
        parameters=settings(pruner),
    )
