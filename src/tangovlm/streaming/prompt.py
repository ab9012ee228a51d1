"""The prompt of a question about a stream, and the KV cache of its beginning, kept from one question to the next.

The beginning of every prompt is the text before the video, and what is held of the stream. Segments at its front that
did not change since the last question are not read again.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from ..errors import InputError, ModelError
from ..machine.stopwatch import Stopwatch
from ..methods import build
from ..models.common.layout import Grid
from ..models.common.transformers_compat import Arg, cache_for, cache_in
from ..pipeline.encoded.prefix import Prefix
from ..pipeline.generation import generate, prompt_inputs
from ..pipeline.loaded import LoadedModel
from ..pipeline.settings import Support
from ..session.attach import attach_family
from ..session.lengths.context import context_length
from .segment import Segment, same_segments

STAGES = ("encode", "prune", "prefill", "decode_tokens")


class HeldPrompt:
    """Asks a model about segments.

    Parameters
    ----------
    llm: a model whose videos are one piece of the prompt.

    Attributes
    ----------
    reused: tokens of the last prompt whose keys and values were those of the prompt before it.
    """

    def __init__(self, llm: LoadedModel) -> None:
        self.llm = llm
        self.reused = 0
        self._prefix: Prefix | None = None
        self._text: list[int] = []
        self._segments: list[Segment] = []

    def around(self, question: str, history: Sequence[tuple[str, str]] = ()) -> tuple[list[int], list[int]]:
        """Token ids before the video and after it.

        Raises
        ------
        InputError: see `PromptFormat.inputs`.
        """
        family = self.llm.family
        picture = torch.zeros(1, 3, 64, 64, dtype=torch.uint8, device=family.device)
        pixels = family.prompt.pixels(picture, self.llm.config)
        inputs = prompt_inputs(self.llm, pixels, question, torch.zeros(1), None, history)
        ids: Tensor = inputs[Arg.IDS][0]
        places = (ids == family.layout.placeholder).nonzero().flatten().tolist()
        if places[-1] - places[0] + 1 != len(places):
            raise ModelError(f"{self.llm.name} has a prompt with a video in pieces, which a stream cannot have")
        return ids[: places[0]].tolist(), ids[places[-1] + 1 :].tolist()

    def check_length(self, visual: int, before: list[int], after: list[int], max_new_tokens: int) -> None:
        """Check that a prompt and its answer fit the model's context.

        Parameters
        ----------
        visual: features of the video in the prompt.

        Raises
        ------
        InputError: they do not.
        """
        limit, text = context_length(self.llm.family), len(before) + len(after)
        if limit is not None and text + visual + max_new_tokens > limit:
            raise InputError(
                f"{visual} visual tokens, {text} of text and {max_new_tokens} of the answer exceed the model's context "
                f"of {limit}: make a stream with max_tokens of at most {max(0, limit - text - max_new_tokens)}"
            )

    @torch.no_grad()
    def generate(
        self,
        segments: Sequence[Segment],
        rest: Tensor,
        words: tuple[list[int], list[int]],
        max_new_tokens: int,
        clock: Stopwatch,
        streamer: Any = None,
    ) -> list[int]:
        """The token ids of the answer, by greedy search.

        Parameters
        ----------
        segments: what is held, the oldest first.
        rest: ``(R, D)`` features that the model has behind the tokens of a video, such as a newline.
        words: see `around`.

        Raises
        ------
        InputError: NaN in the output of the model, or settings of its generation config that do not go with a continued
            prompt.
        ModelError: the model is attached by somebody else.
        """
        llm, (before, after) = self.llm, words
        if not Support.of(llm.model.generation_config).continues:
            raise InputError(
                "the model's generation config has settings that do not go with a continued prompt: reset them, or ask "
                "about a file without max_tokens"
            )
        unchanged = build.method("uniform", retention=1.0)
        with attach_family(llm.family, unchanged, in_turn=True):
            with clock.stage("prefill"):
                prefix = self._read(segments, rest, before)
                asked = torch.cat([prefix.ids, prefix.ids.new_tensor([after])], dim=1)
            with clock.stage("decode_tokens"):
                output = generate(llm, prefix.arguments([asked]), max_new_tokens, streamer)
        found: list[int] = output[0, asked.shape[1] :].tolist()
        return found

    def _read(self, segments: Sequence[Segment], rest: Tensor, before: list[int]) -> Prefix:
        """The beginning of a prompt, of which only what is new is read."""
        family = self.llm.family
        if self._prefix is not None and before == self._text and same_segments(segments, self._segments):
            self.reused = self._prefix.ids.shape[1]
            return self._prefix
        cache, kept = self._cut_cache(segments, before)
        self.reused = 0 if cache is None else len(before) + sum(map(len, segments[:kept]))
        parts = [segment.features.to(rest) for segment in segments[kept:]]
        if cache is None:
            ids = torch.tensor([before], dtype=torch.long, device=family.device)
            parts.insert(0, family.model.get_input_embeddings()(ids)[0].to(rest))
        embeds = torch.cat([*parts, rest])[None]
        positions = self.reused + torch.arange(embeds.shape[1], device=embeds.device)[None]
        options: dict[str, Any] = {Arg.EMBEDS: embeds, Arg.POSITIONS: positions, Arg.USE_CACHE: True}
        if cache is not None:
            options |= cache_for(family.decoder.forward, cache)
        output = family.decoder(**options)
        length = self.reused + embeds.shape[1]
        ids = torch.full((1, length), family.layout.placeholder, dtype=torch.long, device=family.device)
        ids[0, : len(before)] = torch.tensor(before, dtype=torch.long)
        prefix = Prefix.of(family, ids, cache_in(output), Grid(1, 1, length - len(before)), None)
        if prefix is None:
            raise ModelError(f"the cache of {self.llm.name} cannot be continued by several questions")
        self._prefix, self._text, self._segments = prefix, before, list(segments)
        return prefix

    def _cut_cache(self, segments: Sequence[Segment], before: list[int]) -> tuple[Any, int]:
        """The cache up to the first segment that changed, and how many did not; None if nothing of it can be used."""
        prefix, held = self._prefix, self._segments
        # If reading what follows fails, the cache holds a part of it.
        self._prefix = None
        if (
            prefix is None
            or before != self._text
            or any(type(each) is not DynamicLayer for each in prefix.cache.layers)
        ):
            return None, 0
        kept = 0
        while kept < min(len(held), len(segments) - 1) and held[kept] is segments[kept]:
            kept += 1
        length = len(before) + sum(map(len, segments[:kept]))
        for layer in prefix.cache.layers:
            layer.keys, layer.values = layer.keys[..., :length, :], layer.values[..., :length, :]
        return prefix.cache, kept
