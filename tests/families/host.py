"""A family under test: a tiny random model of the real class, its inputs, and a reference without hooks and caches.

A prompt is a sequence of parts: words, videos, images. The reference embeds every part by itself with the stock model,
puts a method's values in, leaves dropped tokens out by hand, counts positions by hand, and runs the text model anew for
every token. Shape letters as in `tangovlm.tokens`; n tokens of a prompt.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import Qwen2Config

from tangovlm.inllm.base import Inside
from tangovlm.tokens import Pruner, VideoTokens
from tests.attach.tiny_models import FIRST_WORD, IMAGE, PAD, VIDEO, VOCABULARY
from tests.inllm.reference import Reference, greedy


@dataclass(frozen=True)
class Words:
    """Random words."""

    count: int
    seed: int

    @property
    def ids(self) -> list[int]:
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randint(FIRST_WORD, VOCABULARY, (self.count,), generator=generator).tolist()


@dataclass(frozen=True)
class Said:
    """Given words."""

    ids: tuple[int, ...]


@dataclass(frozen=True)
class Video:
    """Random frames; `wide` ones have another aspect ratio where a family takes any."""

    frames: int
    seed: int
    wide: bool = False


@dataclass(frozen=True)
class Image:
    """A random picture."""

    seed: int


Part = Words | Said | Video | Image
Row = tuple[Part, ...]


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of a prompt, ready to be read.

    Parameters
    ----------
    ids: ``(n,)``, with placeholders.
    rows: ``(R, D)`` features for the placeholders among them; None for words.
    layers: what is added to them behind the first layers of the text model, ``(R, D)`` each.
    kept: ``(R,)`` bool, which of the features the text model gets.
    grid: T, H, W of a video or an image; None for words.
    """

    ids: list[int]
    rows: Tensor | None = None
    layers: list[Tensor] = field(default_factory=list)
    kept: Tensor | None = None
    grid: tuple[int, int, int] | None = None


class Host(ABC):
    """What the tests must know of a family."""

    family: ClassVar[str]
    placeholders: ClassVar[tuple[int, ...]] = (VIDEO, IMAGE)
    """Ids that stand for features."""
    specials: ClassVar[dict[str, int]] = {"<image>": IMAGE, "<video>": VIDEO}
    """Tokens of the tokenizer that stand for themselves, with ids below `FIRST_WORD`."""
    template: ClassVar[str] = "<video>"
    """What a chat template writes for a video."""
    preprocessor: ClassVar[dict[str, Any]] = {}
    """The checkpoint's preprocessor config."""

    def __init__(self, attention: str = "sdpa", seed: int = 0, layers: int = 2) -> None:
        torch.manual_seed(seed)
        self.model = self.make(attention, layers).eval()
        loud(self.model)
        with torch.no_grad():
            # A placeholder in an answer would be read as one in the next turn, or where nothing is cached.
            self.model.lm_head.weight[:FIRST_WORD] = 0

    # --- of the family ------------------------------------------------------------------------------------------

    @abstractmethod
    def make(self, attention: str, layers: int) -> Any:
        """A tiny model of the real config class; weights are drawn anew."""

    @abstractmethod
    def pixels(self, parts: Sequence[Video | Image]) -> dict[str, Any]:
        """Arguments of `generate` for all videos and images of a call, in order."""

    @abstractmethod
    def encode(self, part: Video | Image) -> Piece:
        """A video or an image by itself, with all its placeholders, from the stock model."""

    def grid_rows(self, piece: Piece) -> Tensor:
        """Which of the features are tokens of the grid, in raster order: ``(N,)`` int64. Default: the first ones."""
        assert piece.grid is not None
        frames, height, width = piece.grid
        return torch.arange(frames * height * width)

    def kept(self, piece: Piece, on_grid: Tensor) -> Tensor:
        """Which of the features stay: ``(R,)`` bool, from those of the grid ``(N,)``."""
        assert piece.rows is not None
        kept = torch.ones(len(piece.rows), dtype=torch.bool)
        kept[self.grid_rows(piece)] = on_grid
        return kept

    def positions(self, _pieces: Sequence[Piece]) -> Tensor | None:
        """Position ids ``(3, n)`` of the unpruned prompt, counted by hand; None where kept tokens are renumbered."""
        return None

    @property
    def broken(self) -> frozenset[str]:
        """Uses that the installed release of transformers gets wrong by itself."""
        return frozenset()

    def told(self, _frames: int) -> dict[str, Any]:
        """Arguments of `attach` that tell a video of so many frames from images, where prompts do not."""
        return {}

    def also(self, _ids: Tensor) -> dict[str, Tensor]:
        """Other arguments of `generate` for padded prompts ``(B, n)``."""
        return {}

    # --- the same for all ---------------------------------------------------------------------------------------

    def piece(self, part: Part, pruner: Pruner | None) -> Piece:
        """A part of a prompt; a video is pruned where there is a method."""
        if isinstance(part, (Words, Said)):
            return Piece(list(part.ids))
        piece = self.encode(part)
        if pruner is None or isinstance(part, Image):
            return piece
        places = self.grid_rows(piece)
        assert piece.rows is not None
        tokens = VideoTokens(piece.rows[places].view(*piece.grid, -1))
        selection = pruner(tokens)
        rows = piece.rows.clone()
        rows[places[selection.indices]] = selection.features
        on_grid = torch.zeros(tokens.count, dtype=torch.bool)
        on_grid[selection.indices] = True
        return replace(piece, rows=rows, kept=self.kept(piece, on_grid))

    def ids(self, row: Row) -> list[int]:
        return [number for part in row for number in self.piece(part, None).ids]

    def inputs(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Arguments of `generate` for prompts, padded on the left."""
        ids = [self.ids(row) for row in rows]
        longest = max(map(len, ids))
        padded = torch.tensor([[PAD] * (longest - len(row)) + row for row in ids])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids])
        media = [part for row in rows for part in row if isinstance(part, (Video, Image))]
        return {"input_ids": padded, "attention_mask": mask} | self.also(padded) | (self.pixels(media) if media else {})

    @torch.no_grad()
    def reference(self, row: Row, pruner: Pruner | None, new: int) -> tuple[list[int], Tensor]:
        """Greedy continuation, and the logits of its first token ``(V,)``."""
        pieces = [self.piece(part, pruner) for part in row]
        said: list[int] = []
        first: Tensor | None = None
        for _ in range(new):
            logits = self._logits([*pieces, Piece(list(said))])
            first = logits if first is None else first
            said.append(int(logits.argmax()))
        assert first is not None
        return said, first

    @torch.no_grad()
    def inside(self, row: Row, pruner: Inside, new: int) -> tuple[list[int], Tensor, list[int]]:
        """As `reference`, of a method inside the text model; and what each layer held of the prompt."""
        pieces = [self.piece(part, None) for part in row]
        table, embeds, visual, start = self.model.get_input_embeddings().weight, [], [], 0
        for part, piece in zip(row, pieces, strict=True):
            ids = torch.tensor(piece.ids)
            rows = table[ids].clone()
            if piece.rows is not None:
                at = torch.isin(ids, torch.tensor(self.placeholders)).nonzero()[:, 0]
                rows[at] = piece.rows
                visual += (start + at[self.grid_rows(piece)]).tolist() if isinstance(part, Video) else []
            embeds.append(rows)
            start += len(rows)
        decoder = self.model.get_decoder()
        cuts = {cut.layer: cut.keep for cut in pruner.cuts(len(decoder.layers))}
        whole = torch.cat(embeds)
        return greedy(
            Reference(decoder, pruner.name, cuts), self.model.lm_head, table, whole, visual, new, self.positions(pieces)
        )

    def length(self, row: Row, pruner: Pruner | None) -> int:
        """Tokens that the text model reads."""
        pieces = [self.piece(part, pruner) for part in row]
        dropped = sum(int((~piece.kept).sum()) for piece in pieces if piece.kept is not None)
        return sum(len(piece.ids) for piece in pieces) - dropped

    def _logits(self, pieces: Sequence[Piece]) -> Tensor:
        """Of the last position, everything computed anew."""
        table = self.model.get_input_embeddings().weight
        embeds, kept, visual, layers = [], [], [], []
        for piece in pieces:
            ids = torch.tensor(piece.ids, dtype=torch.long)
            rows = table[ids].clone()
            stay = torch.ones(len(ids), dtype=torch.bool)
            if piece.rows is not None:
                at = torch.isin(ids, torch.tensor(self.placeholders))
                rows[at] = piece.rows
                if piece.kept is not None:
                    stay[at] = piece.kept
                visual.append(at)
                deep = [torch.zeros_like(rows) for _ in piece.layers]
                for full, layer in zip(deep, piece.layers, strict=True):
                    full[at] = layer
                layers.append(deep)
            else:
                visual.append(torch.zeros_like(stay))
                layers.append([])
            embeds.append(rows)
            kept.append(stay)
        stay = torch.cat(kept)
        positions = self.positions(pieces)
        extras: dict[str, Any] = {"position_ids": torch.arange(int(stay.sum()))[None]}
        if positions is not None:
            extras["position_ids"] = positions[:, None, stay]
        if any(layers):
            seen = torch.cat(visual) & stay
            depth = max(map(len, layers))
            whole = [
                torch.cat(
                    [deep[level] if deep else torch.zeros_like(rows) for deep, rows in zip(layers, embeds, strict=True)]
                )
                for level in range(depth)
            ]
            extras |= {
                "visual_pos_masks": seen[stay][None],
                "deepstack_visual_embeds": [level[seen] for level in whole],
            }
        output = self.text(torch.cat(embeds)[stay][None], **extras)
        return self.model.lm_head(output[0, -1])

    def text(self, embeds: Tensor, **extras: Any) -> Tensor:
        """Last hidden states of the text model."""
        return self.model.get_decoder()(inputs_embeds=embeds, use_cache=False, **extras).last_hidden_state


def loud(model: Any) -> None:
    """Weights so large that every token matters to the logits."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2 and "position" not in name and "pos_embed" not in name:
                parameter.normal_(std=1.5 / parameter[0].numel() ** 0.5)
            elif name.endswith("bias"):
                parameter.normal_(std=0.1)
        model.get_input_embeddings().weight.normal_(std=1.0)


def random(shape: Sequence[int], seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def qwen2(layers: int = 2, **changes: Any) -> Qwen2Config:
    """A small text model."""
    return Qwen2Config(**text_config(layers) | changes)


def text_config(layers: int = 2) -> dict[str, Any]:
    """Settings that small text models share."""
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": PAD,
    }


def mrope(pieces: Sequence[Piece], placeholders: Sequence[int], interval: Sequence[float]) -> Tensor:
    """Position ids ``(3, n)`` of M-RoPE, counted token by token.

    Text counts on in all three rows. A video or an image that begins at position p has (p + time, p + row, p + column);
    what follows it goes on at p + the longer side of its grid, whatever its length in time.

    Parameters
    ----------
    interval: of each video or image, position ids between two of its steps.
    """
    columns: list[tuple[int, int, int]] = []
    place, waiting = 0, list(interval)
    for piece in pieces:
        if piece.grid is None:
            columns += [(place + offset,) * 3 for offset in range(len(piece.ids))]
            place += len(piece.ids)
            continue
        frames, height, width = piece.grid
        step = waiting.pop(0)
        cells = [(t, h, w) for t in range(frames) for h in range(height) for w in range(width)]
        number, start = 0, None
        for token in piece.ids:
            if token not in placeholders:
                if start is not None:
                    place, start = start + max(height, width), None
                columns.append((place,) * 3)
                place += 1
                continue
            if start is None:
                start = place
                # Steps that text separates begin anew.
                first = cells[number][0]
            t, h, w = cells[number]
            columns.append((start + int((t - first) * step), start + h, start + w))
            number += 1
        if start is not None:
            place = start + max(height, width)
    return torch.tensor(columns).T if columns else torch.zeros(3, 0, dtype=torch.long)
