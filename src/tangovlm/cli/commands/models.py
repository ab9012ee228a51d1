"""`tangovlm models`: the registered model families, the signals they provide, and what each is tested with."""

from dataclasses import asdict

from ..catalog import ModelCard, saved
from ..options import AsJson
from ..output import entries, show, show_json


def models(as_json: AsJson = False) -> None:
    """List the model families: model classes, signals, tested uses, and published checkpoints."""
    cards = saved().models
    if as_json:
        show_json([_as_dict(card) for card in cards])
        return
    show(
        entries(
            (
                card.family,
                {
                    "model classes": "\n".join(card.architectures),
                    "signals": ", ".join(card.signals),
                    "tested": card.tested_in,
                    "vLLM": "yes" if card.served else "no",
                    "checkpoints": "\n".join(card.checkpoints),
                },
            )
            for card in cards
        )
    )
    show(f"tested uses: {', '.join((*cards[0].tested, *cards[0].untested))}")


def _as_dict(card: ModelCard) -> dict[str, object]:
    return {name: value for name, value in asdict(card).items() if name != "untested"}
