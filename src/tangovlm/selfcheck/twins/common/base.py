"""A twin of a family: a tiny random model of the real class, its inputs, and a reference without hooks and caches.

A prompt is a sequence of parts: words, videos, images. The reference embeds every part by itself with the stock model,
writes the values of a method, leaves out dropped tokens, counts positions, and runs the text model on the whole
sequence for every token. Shape letters as in `tangovlm.tokens`; n tokens of a prompt.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ....methods.in_llm.common.base import InLLMMethod
from ....models.common.transformers_compat import Arg
from ....tokens import Pruner, VideoTokens
from .inside import Reference, greedy
from .parts import (
    FIRST_WORD,
    IMAGE,
    PAD,
    VIDEO,
    EncodedPart,
    Image,
    PromptPart,
    PromptParts,
    RandomWords,
    TokenIds,
    Video,
)
from .weights import loud


class Twin(ABC):
    """A tiny random model of the real class, and the reference for its answers."""

    family: ClassVar[str]
    placeholders: ClassVar[tuple[int, ...]] = (VIDEO, IMAGE)
    """Ids of placeholders for features."""
    specials: ClassVar[dict[str, int]] = {"<image>": IMAGE, "<video>": VIDEO}
    """Special tokens of the tokenizer, with ids below `FIRST_WORD`."""
    template: ClassVar[str] = "<video>"
    """What a chat template writes for a video."""
    preprocessor: ClassVar[dict[str, Any]] = {}
    """The checkpoint's preprocessor config."""
    cell_pixels: ClassVar[int | None] = None
    """Side of a cell of the grid in pixels; None if the cells fill a frame."""
    prunes_images: bool = False
    """Whether the reference prunes images as well as videos."""

    def __init__(self, attention: str = "sdpa", seed: int = 0, layers: int = 2) -> None:
        # Only the CPU's generator is used, and restored: `torch.manual_seed` would seed the others too.
        state = torch.get_rng_state()
        try:
            torch.default_generator.manual_seed(seed)
            self.model = self.make(attention, layers).eval()
            loud(self.model)
        finally:
            torch.set_rng_state(state)
        with torch.no_grad():
            # A placeholder in an answer would be read as such in the next turn, or without a cache.
            self.model.lm_head.weight[:FIRST_WORD] = 0

    # --- of the family ------------------------------------------------------------------------------------------

    @abstractmethod
    def make(self, attention: str, layers: int) -> Any:
        """A tiny model of the real config class; its weights are replaced later."""

    @abstractmethod
    def pixels(self, parts: Sequence[Video | Image]) -> dict[str, Any]:
        """Arguments of `generate` for all videos and images of a call, in order."""

    @abstractmethod
    def encode(self, part: Video | Image) -> EncodedPart:
        """A video or an image by itself, with all its placeholders, encoded by the stock model."""

    def grid_indices(self, piece: EncodedPart) -> Tensor:
        """Indices of the grid's tokens among the features, in raster order: ``(N,)``; by default the first ones."""
        assert piece.grid is not None
        frames, height, width = piece.grid
        return torch.arange(frames * height * width)

    def kept_features(self, piece: EncodedPart, on_grid: Tensor) -> Tensor:
        """Which of the features are kept: ``(R,)`` bool, from those of the grid ``(N,)``."""
        assert piece.features is not None
        kept = torch.ones(len(piece.features), dtype=torch.bool)
        kept[self.grid_indices(piece)] = on_grid
        return kept

    def positions(self, _pieces: Sequence[EncodedPart]) -> Tensor | None:
        """Position ids ``(3, n)`` of the unpruned prompt, counted here; None if kept tokens are renumbered."""
        return None

    @property
    def broken_uses(self) -> frozenset[str]:
        """Uses in which the installed release of transformers itself is wrong."""
        return frozenset()

    def words(self, ids: Tensor) -> Tensor:
        """Embeddings of token ids, as the text model reads them."""
        return torch.as_tensor(self.model.get_input_embeddings()(ids))

    def text_inputs(self, _ids: Tensor, _visual: Tensor, _stay: Tensor) -> dict[str, Any]:
        """Other arguments of the text model for a prompt ``(n,)``, of which the tokens `stay` are kept."""
        return {}

    def attach_options(self, _frames: int) -> dict[str, Any]:
        """Arguments of `attach` that distinguish a video of this length from images, if prompts do not."""
        return {}

    def extra_inputs(self, _ids: Tensor) -> dict[str, Tensor]:
        """Other arguments of `generate` for padded prompts ``(B, n)``."""
        return {}

    # --- the same for all ---------------------------------------------------------------------------------------

    def encode_part(self, part: PromptPart, pruner: Pruner | None) -> EncodedPart:
        """Encode a part of a prompt; a video is pruned if there is a method."""
        if isinstance(part, (RandomWords, TokenIds)):
            return EncodedPart(list(part.ids))
        piece = self.encode(part)
        if pruner is None or (isinstance(part, Image) and not self.prunes_images):
            return piece
        indices = self.grid_indices(piece)
        assert piece.features is not None
        assert piece.grid is not None
        tokens = VideoTokens(piece.features[indices].view(*piece.grid, -1))
        selection = pruner(tokens)
        features = piece.features.clone()
        features[indices[selection.indices]] = selection.features
        on_grid = torch.zeros(tokens.count, dtype=torch.bool)
        on_grid[selection.indices] = True
        return replace(piece, features=features, kept=self.kept_features(piece, on_grid))

    def ids(self, prompt: PromptParts) -> list[int]:
        return [number for part in prompt for number in self.encode_part(part, None).ids]

    def inputs(self, prompts: Sequence[PromptParts]) -> dict[str, Any]:
        """Arguments of `generate` for prompts, padded on the left."""
        ids = [self.ids(prompt) for prompt in prompts]
        longest = max(map(len, ids))
        padded = torch.tensor([[PAD] * (longest - len(row)) + row for row in ids])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids])
        media = [part for prompt in prompts for part in prompt if isinstance(part, (Video, Image))]
        return {Arg.IDS: padded, Arg.MASK: mask} | self.extra_inputs(padded) | (self.pixels(media) if media else {})

    def next_turn(self, inputs: dict[str, Any], said: Tensor, question: RandomWords) -> dict[str, Any]:
        """Arguments of `generate` for another turn of a conversation with the same cache.

        Parameters
        ----------
        inputs: of the turn before.
        said: ``(B, n)`` its prompts with their answers.
        """
        ids = torch.cat([said, torch.tensor([question.ids] * len(said))], dim=1)
        new = ids[:, inputs[Arg.IDS].shape[1] :]
        mask = torch.cat([inputs[Arg.MASK], torch.ones_like(new)], dim=1)
        # An answer may contain the id of a placeholder, which is a word there.
        shown = torch.cat([inputs[Arg.IDS], torch.zeros_like(new)], dim=1)
        known = {
            name: inputs[name] for name in (Arg.VIDEO_GRIDS, Arg.STEP_SECONDS, Arg.VIDEO_STEP_SECONDS) if name in inputs
        }
        return {Arg.IDS: ids, Arg.MASK: mask} | self.extra_inputs(shown) | known

    def next_token(self, token: int) -> dict[str, Any]:
        """Arguments of the model for one more token of a prompt in its cache."""
        return {Arg.IDS: torch.tensor([[token]])}

    def with_changed_cell(
        self, inputs: dict[str, Any], grid: tuple[int, int, int], cell: tuple[int, int, int]
    ) -> dict[str, Any]:
        """Arguments of a prompt with one video, with changed pixels in one cell (t, h, w) of its grid."""
        name = Arg.VIDEO_PIXELS if Arg.VIDEO_PIXELS in inputs else Arg.PIXELS
        pixels = inputs[name].clone()
        (frames, height, width), (t, h, w) = grid, cell
        if pixels.dim() == 2:
            # Patches; those of a cell are contiguous.
            part = pixels.unflatten(0, (frames * height * width, -1))[(t * height + h) * width + w]
        else:
            pictures = pixels.view(-1, *pixels.shape[-3:])
            side = self.cell_pixels or pictures.shape[-1] // width
            part = pictures[t, :, side * h : side * (h + 1), side * w : side * (w + 1)]
        part += 3 * part.sign()
        return inputs | {name: pixels}

    @torch.no_grad()
    def reference(
        self, row: PromptParts, pruner: Pruner | None, new: int, original: bool = False
    ) -> tuple[list[int], Tensor]:
        """Greedy continuation, and the logits of its first token ``(V,)``.

        Parameters
        ----------
        original: whether kept tokens have the position ids of the unpruned prompt; with `positions` they always do.
        """
        pieces = [self.encode_part(part, pruner) for part in row]
        said: list[int] = []
        first: Tensor | None = None
        for _ in range(new):
            logits = self._logits([*pieces, EncodedPart(list(said))], original)
            first = logits if first is None else first
            said.append(int(logits.argmax()))
        assert first is not None
        return said, first

    @torch.no_grad()
    def inside(self, row: PromptParts, pruner: InLLMMethod, new: int) -> tuple[list[int], Tensor, list[int]]:
        """As `reference`, for a method inside the text model; also the number of tokens of the prompt in each layer."""
        pieces = [self.encode_part(part, None) for part in row]
        table, embeds, visual, start, trailing = self.model.get_input_embeddings().weight, [], [], 0, 0
        for part, piece in zip(row, pieces, strict=True):
            ids = torch.tensor(piece.ids)
            rows = table[ids].clone()
            if piece.features is not None:
                at = torch.isin(ids, torch.tensor(self.placeholders)).nonzero()[:, 0]
                rows[at] = piece.features
                visual += (start + at[self.grid_indices(piece)]).tolist() if isinstance(part, Video) else []
            trailing += len(rows)
            if isinstance(part, Video):
                trailing = len(rows) - 1 - int(at[-1])
            embeds.append(rows)
            start += len(rows)
        decoder = self.model.get_decoder()
        cuts = {cut.layer: cut.keep for cut in pruner.cuts(len(decoder.layers))}
        whole = torch.cat(embeds)
        reference, positions = Reference(decoder, pruner.name, cuts), self.positions(pieces)
        return greedy(reference, self.model.lm_head, table, whole, visual, new, positions, trailing)

    @torch.no_grad()
    def at_positions(self, words: RandomWords, positions: Tensor) -> Tensor:
        """Hidden state ``(D,)`` of the last word at position ids ``(n,)``, or ``(3, n)`` of M-RoPE."""
        ids, yes = torch.tensor(words.ids), torch.ones(words.count, dtype=torch.bool)
        extras = {Arg.MASK: torch.ones(1, words.count), Arg.POSITIONS: positions[..., None, :]}
        return self.text(self.words(ids)[None], **extras | self.text_inputs(ids, ~yes, yes))[0, -1]

    def length(self, row: PromptParts, pruner: Pruner | None) -> int:
        """Number of tokens that the text model reads."""
        pieces = [self.encode_part(part, pruner) for part in row]
        dropped = sum(int((~piece.kept).sum()) for piece in pieces if piece.kept is not None)
        return sum(len(piece.ids) for piece in pieces) - dropped

    def _logits(self, pieces: Sequence[EncodedPart], original: bool) -> Tensor:
        """Logits of the last position, computed without a cache."""
        embeds, kept, visual, layers = [], [], [], []
        for piece in pieces:
            ids = torch.tensor(piece.ids, dtype=torch.long)
            rows = self.words(ids).clone()
            stay = torch.ones(len(ids), dtype=torch.bool)
            if piece.features is not None:
                at = torch.isin(ids, torch.tensor(self.placeholders))
                rows[at] = piece.features
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
        left = stay.nonzero()[:, 0]
        # Without a mask, gaps between position ids are read as borders of packed prompts.
        mask = torch.ones(1, len(left), dtype=torch.long)
        extras: dict[str, Any] = {Arg.MASK: mask, Arg.POSITIONS: torch.arange(len(left))[None]}
        if original:
            extras[Arg.POSITIONS] = left[None]
        if positions is not None:
            extras[Arg.POSITIONS] = positions[:, None, stay]
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
                Arg.DEEP_PLACES: seen[stay][None],
                Arg.DEEP_FEATURES: [level[seen] for level in whole],
            }
        ids = torch.tensor([token for piece in pieces for token in piece.ids], dtype=torch.long)
        extras |= self.text_inputs(ids, torch.cat(visual), stay)
        output = self.text(torch.cat(embeds)[stay][None], **extras)
        return self.model.lm_head(output[0, -1])

    def text(self, embeds: Tensor, **extras: Any) -> Tensor:
        """Last hidden states of the text model."""
        return self.model.get_decoder()(**{Arg.EMBEDS: embeds, Arg.USE_CACHE: False}, **extras).last_hidden_state
