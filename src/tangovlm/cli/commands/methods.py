"""`tangovlm methods`: the registered methods, what they read, and their hyper-parameters."""

from dataclasses import asdict

from ..catalog import saved
from ..options import AsJson
from ..output import entries, show, show_json


def methods(as_json: AsJson = False) -> None:
    """List the pruning methods: stage, signals, paper, and settings with their defaults."""
    cards = saved().methods
    if as_json:
        show_json([asdict(card) for card in cards])
        return
    show(
        entries(
            (
                card.name,
                {
                    "stage": card.stage,
                    "reads": card.reads,
                    "paper": card.paper or "none",
                    "settings": ", ".join(f"{name}={value!r}" for name, value in card.parameters.items()),
                },
            )
            for card in cards
        )
    )
