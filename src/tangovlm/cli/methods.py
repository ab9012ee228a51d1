"""`tangovlm methods`: every method that is registered, what it needs, and its settings."""

from dataclasses import dataclass, fields
from typing import Annotated, Any

import typer
from rich.table import Table

from tangovlm import registry

from .output import show, show_json


@dataclass(frozen=True)
class MethodCard:
    """A registered method as the lists show it; `parameters` are its fields with their defaults."""

    name: str
    needs: tuple[str, ...]
    paper: str
    official_repo: str
    parameters: dict[str, Any]


def cards() -> list[MethodCard]:
    """All registered methods, in the order of the registry."""
    return [_card(name) for name in registry.methods()]


def methods(as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False) -> None:
    """List the methods: what each needs, its paper, its settings with their defaults."""
    if as_json:
        show_json({"methods": [_as_dict(card) for card in cards()]})
        return
    table = Table(show_lines=True)
    for column in ("method", "needs", "paper", "settings (defaults)"):
        table.add_column(column, overflow="fold")
    for card in cards():
        chosen = ", ".join(f"{name}={value!r}" for name, value in card.parameters.items())
        table.add_row(card.name, ", ".join(card.needs) or "features only", card.paper, chosen)
    show(table)


def settings(pruner: Any) -> dict[str, Any]:
    """The fields of a method that can be chosen, with their values."""
    return {field.name: getattr(pruner, field.name) for field in fields(pruner) if field.init}


def _card(name: str) -> MethodCard:
    pruner: Any = registry.method(name)
    return MethodCard(
        name=name,
        needs=tuple(sorted(pruner.needs)),
        paper=pruner.paper,
        official_repo=pruner.official_repo,
        parameters=settings(pruner),
    )


def _as_dict(card: MethodCard) -> dict[str, object]:
    return {field.name: getattr(card, field.name) for field in fields(card)}
