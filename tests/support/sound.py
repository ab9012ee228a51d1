"""Twins of models that also hear: prompts with sound inside and beside videos, and the reference for them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from tangovlm.selfcheck.twins.common.parts import VIDEO, EncodedPart, Image, Video
from tangovlm.selfcheck.twins.common.weights import random
from tangovlm.selfcheck.twins.qwen2_5_omni import AUDIO, AUDIO_END, AUDIO_START, Column, Qwen25OmniTwin
from tangovlm.selfcheck.twins.qwen2_5_vl import END, START
from tangovlm.selfcheck.twins.qwen3_omni import Qwen3OmniTwin

MELS = 8
Tokens: TypeAlias = list[tuple[int, Column]]
"""Ids with positions."""


@dataclass(frozen=True)
class VideoWithSound(Video):
    """Random frames with a random sound of so many frames of a spectrogram."""

    sound: int = 40


@dataclass(frozen=True)
class Sound(Image):
    """A random sound by itself.

    With other lengths than multiples of 8, what Qwen3-Omni's encoder makes of the end of a sound depends on the longest
    one of the call.
    """

    sound: int = 32


class HearingTwin(Qwen25OmniTwin, ABC):
    """Tokens of sound count as features that are not on the grid of their video."""

    placeholders = (*Qwen25OmniTwin.placeholders, AUDIO)
    advance: ClassVar[int]
    """Difference of the positions of the two tokens before a video with sound, and of the two after it."""

    @abstractmethod
    def sound_length(self, frames: int) -> int:
        """Tokens of a sound."""

    @abstractmethod
    def merged(self, seen: Tokens, heard: Tokens) -> list[Tokens]:
        """Tokens of a video and of its sound, in the blocks in which stock code writes them."""

    def pixels(self, parts: Sequence[Video | Image]) -> dict[str, Any]:
        seen = [part for part in parts if not isinstance(part, Sound)]
        heard = [part for part in parts if isinstance(part, (Sound, VideoWithSound))]
        found = super().pixels(seen) if seen else {}
        if heard:
            longest = max(part.sound for part in heard)
            features = torch.zeros(len(heard), MELS, longest)
            mask = torch.zeros(len(heard), longest, dtype=torch.long)
            for row, part in enumerate(heard):
                features[row, :, : part.sound], mask[row, : part.sound] = random((MELS, part.sound), part.seed), 1
            found |= {"input_features": features, "feature_attention_mask": mask}
        return found | ({"use_audio_in_video": True} if any(isinstance(part, VideoWithSound) for part in parts) else {})

    @torch.no_grad()
    def heard(self, part: Sound | VideoWithSound) -> Tensor:
        features, mask = random((MELS, part.sound), part.seed)[None], torch.ones(1, part.sound, dtype=torch.long)
        rows: Tensor = self.model.model.get_audio_features(features, mask, return_dict=True).last_hidden_state
        assert len(rows) == self.sound_length(part.sound)
        return rows

    def encode(self, part: Video | Image) -> EncodedPart:
        if isinstance(part, Sound):
            rows = self.heard(part)
            return EncodedPart([AUDIO_START, *[AUDIO] * len(rows), AUDIO_END], rows)
        piece = super().encode(part)
        if not isinstance(part, VideoWithSound):
            return piece
        assert piece.features is not None
        rows = self.heard(part)
        order = [token for block in self.blocks(piece, len(rows)) for token in block]
        counts, ids, features = {VIDEO: 0, AUDIO: 0}, list[int](), list[Tensor]()
        layers: list[list[Tensor]] = [[] for _ in piece.layers]
        for token, _ in order:
            ids.append(token)
            features.append((piece.features if token == VIDEO else rows)[counts[token]])
            for new, old in zip(layers, piece.layers, strict=True):
                new.append(old[counts[VIDEO]] if token == VIDEO else torch.zeros_like(old[0]))
            counts[token] += 1
        assert (counts[VIDEO], counts[AUDIO]) == (len(piece.features), len(rows))
        deep = [torch.stack(layer) for layer in layers]
        return EncodedPart([START, AUDIO_START, *ids, AUDIO_END, END], torch.stack(features), deep, grid=piece.grid)

    def grid_indices(self, piece: EncodedPart) -> Tensor:
        ids = torch.tensor(piece.ids)
        return (ids[torch.isin(ids, torch.tensor(self.placeholders))] != AUDIO).nonzero()[:, 0]

    def blocks(self, piece: EncodedPart, length: int) -> list[Tokens]:
        """Tokens of a video and of its sound with positions from 0, see `merged`."""
        seen = [(VIDEO, column) for column in self.cells(EncodedPart([VIDEO], grid=piece.grid), 0)]
        return self.merged(seen, [(AUDIO, (place,) * 3) for place in range(length)])

    def columns(self, piece: EncodedPart, start: float) -> list[Column]:
        if piece.grid is None or AUDIO not in piece.ids:
            return super().columns(piece, start)
        inner, blocks = start + self.advance + 1, self.blocks(piece, piece.ids.count(AUDIO))
        content = [(inner + t, inner + h, inner + w) for block in blocks for _, (t, h, w) in block]
        end = 1 + max(max(column) for column in content[-len(blocks[-1]) :])
        return [(start,) * 3, (start + self.advance,) * 3, *content, (end,) * 3, (end + self.advance,) * 3]


class Hearing(HearingTwin):
    """Qwen2.5-Omni: two seconds of the video and two of the sound take turns."""

    seconds_per_step = 1.0
    advance = 0

    def sound_length(self, frames: int) -> int:
        return ((frames - 1) // 2 + 1 - 2) // 2 + 1

    def merged(self, seen: Tokens, heard: Tokens) -> list[Tokens]:
        made, turn = list[Tokens](), 2 * self.tokens_per_second
        for number in range(1 + int(max(seen[-1][1][0], heard[-1][1][0])) // turn):
            made += [[pair for pair in pairs if pair[1][0] // turn == number] for pairs in (seen, heard)]
        return [block for block in made if block]


class Hearing3(HearingTwin, Qwen3OmniTwin):
    """Qwen3-Omni: tokens are in the order of their times, those of the video first."""

    advance = 1

    def sound_length(self, frames: int) -> int:
        for _ in range(3):
            frames = (frames - 1) // 2 + 1
        return frames

    def merged(self, seen: Tokens, heard: Tokens) -> list[Tokens]:
        seen, heard, made = [*seen], [*heard], list[Tokens]()
        while seen and heard:
            made.append([(seen if seen[0][1][0] <= heard[0][1][0] else heard).pop(0)])
        return [*made, seen or heard]
