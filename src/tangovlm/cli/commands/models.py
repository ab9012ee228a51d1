"""`tangovlm models`: the registered model families, the signals they provide, and what each is tested with."""

from dataclasses import asdict
from typing import Annotated

import typer

from ..catalog import ModelCard, saved
from ..options import AsJson
from ..output import entries, only_results, plain, show, show_json


def models(
    explain: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Say which family supports a checkpoint (directory or Hugging Face id), or what it lacks. Reads its "
            "config only.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the model families: model classes, signals, tested uses, and published checkpoints."""
    if explain is not None:
        _explain(explain, as_json)
        return
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
                    "images": "pruned on request" if card.prunes_images else "kept whole",
                    "checkpoints": "\n".join(card.checkpoints),
                },
            )
            for card in cards
        )
    )
    show(f"tested uses: {', '.join((*cards[0].tested, *cards[0].untested))}")


def _explain(model: str, as_json: bool) -> None:
    # Only here: importing it imports transformers.
    from tangovlm.pipeline.explain import explain

    with only_results():
        found = explain(model)
    if as_json:
        show_json(asdict(found))
    else:
        show(plain(found.text))


def _as_dict(card: ModelCard) -> dict[str, object]:
    return {name: value for name, value in asdict(card).items() if name != "untested"}
