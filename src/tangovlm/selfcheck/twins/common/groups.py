"""Reference of a first pass over groups of frames: no hooks, full attention maps, whole sequences."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .... import budget
from ....methods.common.selection import keep_only
from ....tokens import Selection, VideoTokens
from .base import Twin
from .inside import Reference
from .parts import PromptParts, Video


@dataclass(frozen=True)
class Chosen:
    """A method before the language model that keeps given tokens of its only video."""

    places: tuple[int, ...]
    retention: float = 0.5
    name: ClassVar[str] = "chosen"
    stage: ClassVar[str] = "pre-llm"
    needs: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, tokens: VideoTokens) -> Selection:
        return keep_only(tokens, torch.tensor(self.places))


@torch.no_grad()
def choose_in_groups(
    twin: Twin, row: PromptParts, layer: int, retention: float, frames_per_group: int, reduce: str = "max"
) -> Chosen:
    """The tokens that FlexSelect keeps of the only video of a prompt, with an exact budget.

    Parameters
    ----------
    row: has one `Video`.
    layer: of the attention.
    """
    pieces = [twin.encode_part(part, None) for part in row]
    ((at, video),) = ((number, part) for number, part in enumerate(row) if isinstance(part, Video))
    piece = pieces[at]
    assert piece.grid is not None
    assert piece.features is not None
    steps, total = piece.grid[0], piece.grid_tokens
    length, groups = total // steps, math.ceil(steps / frames_per_group)
    keep, done, places = budget.count(retention, total), 0, list[int]()
    for group in range(groups):
        own = range(group, steps, groups)
        members = [step * length + token for step in own for token in range(length)]
        # As for a video of so many steps.
        short = [*pieces]
        short[at] = twin.encode(Video(len(own) * (video.frames // steps), video.seed, video.wide))
        positions = twin.positions(short)
        weights = _attention_to(twin, row, members, layer, positions)
        scores = weights.flatten(0, 1).amax(0) if reduce == "max" else weights.mean(dim=(0, 1))
        before, done = done, done + len(members)
        count = budget.apportion([budget.exact(keep) * done / total])[0]
        count -= budget.apportion([budget.exact(keep) * before / total])[0]
        best = sorted(range(len(members)), key=lambda place: (-float(scores[place]), place))[:count]
        places += [members[place] for place in best]
    return Chosen(tuple(sorted(places)))


def _attention_to(twin: Twin, row: PromptParts, members: list[int], layer: int, positions: Tensor | None) -> Tensor:
    """Attention ``(A, R, m)`` of the text after the video to m tokens of it, in a prompt without its other tokens."""
    table, decoder = twin.model.get_input_embeddings().weight, twin.model.get_decoder()
    embeds, visual, trailing, start = list[Tensor](), list[int](), 0, 0
    for part in row:
        piece = twin.encode_part(part, None)
        ids = torch.tensor(piece.ids)
        rows, trailing = table[ids].clone(), trailing + len(ids)
        if isinstance(part, Video):
            assert piece.features is not None
            at = torch.isin(ids, torch.tensor(twin.placeholders)).nonzero()[:, 0]
            on_grid = torch.zeros(piece.grid_tokens, dtype=torch.bool)
            on_grid[members] = True
            stays, is_visual = torch.ones(len(ids), dtype=torch.bool), torch.zeros(len(ids), dtype=torch.bool)
            rows[at], stays[at] = piece.features, twin.kept_features(piece, on_grid)
            is_visual[at[twin.grid_indices(piece)[members]]] = True
            rows, trailing = rows[stays], len(ids) - 1 - int(at[-1])
            visual = (start + is_visual[stays].nonzero()[:, 0]).tolist()
        embeds.append(rows)
        start += len(rows)
    states, lm = torch.cat(embeds), Reference(decoder, "flexselect", {})
    positions = torch.arange(len(states)) if positions is None else positions
    for module in decoder.layers[:layer]:
        states = states + lm.attend(module, states, positions)[0]
        states = states + module.mlp(module.post_attention_layernorm(states))
    weights = lm.attend(decoder.layers[layer], states, positions)[1]
    return weights[:, len(states) - trailing :][..., visual]
