"""Answers to all questions about a clip under many methods, with shared computation.

A method that prunes before the language model does not depend on the question, so the prompt up to the end of the video
is prefilled once per method and all questions continue from that cache. The answers are those of `attach` and
`generate`, which `stock_generate` runs and the tests compare.

Shape letters: R videos (pruned by several methods to equally many tokens), M tokens of a video, Q questions,
B = R * Q batch entries.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from tangovlm.errors import InputError, ModelError
from tangovlm.models.common.transformers_compat import Arg, cache_for, cache_in
from tangovlm.pipeline.encoded.growing_layer import GrowingLayer
from tangovlm.pipeline.load import VideoLLM
from tangovlm.tiny.evaluate import MAX_NEW_TOKENS
from tangovlm.tiny.synthetic.questions import Question

from .clip_encoder import PrunedVideo
from .runs import Run

_MAX_CACHED_POSITIONS = 40_000
"""Limit on the positions in the cache, summed over the batch."""


@dataclass(frozen=True)
class Reply:
    """A model's answer in words, and the log-likelihood of each choice."""

    answer: str
    likelihoods: tuple[float, ...]

    def best(self, question: Question) -> str:
        """The most likely choice; the first of several equal ones."""
        return question.choices[max(range(len(self.likelihoods)), key=self.likelihoods.__getitem__)]


class BatchedAnswerer:
    """Answers questions about pruned videos in batches; see the module."""

    def __init__(self, llm: VideoLLM) -> None:
        self.llm = llm
        eos = llm.model.generation_config.eos_token_id
        ends = eos if isinstance(eos, list) else [] if eos is None else [eos]
        self._ends = torch.tensor(ends, dtype=torch.long, device=llm.family.device)
        self._token_ids: dict[str, list[int]] = {}

    def supports(self, run: Run) -> bool:
        """Whether all questions can share the prefill of a video under a run; if not, use `stock_generate`."""
        return not run.in_llm and not run.reads_question and self.llm.family.in_one_piece

    # --- the prompt -----------------------------------------------------------------------------------------------

    @cached_property
    def _video_token(self) -> int:
        config = self.llm.model.config
        return int(getattr(config, "video_token_id", None) or config.video_token_index)

    def prompts(self, pixels: Tensor, texts: Sequence[str]) -> tuple[list[int], list[list[int]]]:
        """Token ids before the video, and for each question the token ids after it.

        Raises
        ------
        ModelError: the video's tokens are not contiguous in the prompt.
        """
        before: list[int] = []
        after = []
        for text in texts:
            ids = self.llm.family.prompt.inputs(self.llm.tokenizer, self.llm.template, pixels, text)[Arg.IDS][0]
            (places,) = (ids == self._video_token).nonzero(as_tuple=True)
            first, last = int(places[0]), int(places[-1])
            if last - first + 1 != len(places):
                raise ModelError(f"{self.llm.name} has a prompt with a video in pieces: name another --model")
            before = ids[:first].tolist()
            after.append(ids[last + 1 :].tolist())
        return before, after

    # --- the language model ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def replies(
        self, videos: Sequence[PrunedVideo], before: list[int], after: list[list[int]], questions: Sequence[Question]
    ) -> Iterator[list[Reply]]:
        """For each video the replies to all questions.

        Parameters
        ----------
        videos: with equally many tokens.
        before, after: token ids, see `prompts`.

        Raises
        ------
        InputError: NaN in the output of the model.
        """
        length = len(before) + len(videos[0].features) + max(map(len, after)) + MAX_NEW_TOKENS
        batch = max(1, _MAX_CACHED_POSITIONS // (length * len(questions)))
        for start in range(0, len(videos), batch):
            yield from self._replies(videos[start : start + batch], before, after, questions)

    def _replies(
        self, videos: Sequence[PrunedVideo], before: list[int], after: list[list[int]], questions: Sequence[Question]
    ) -> Iterator[list[Reply]]:
        cache = self._prefill_videos(videos, before)
        starts = [len(before) + video.end for video in videos]
        by_video: list[list[Reply]] = [[] for _ in videos]
        # All questions at once unless a single video is so long that their caches would take too much memory.
        length = cache.get_seq_length() + max(map(len, after)) + MAX_NEW_TOKENS
        step = max(1, _MAX_CACHED_POSITIONS // (length * len(videos)))
        for first in range(0, len(questions), step):
            asked = questions[first : first + step]
            prefilled = self._prefill_questions(cache, starts, after[first : first + step])
            likelihoods = self._likelihoods(prefilled, [q.choices for q in asked] * len(videos))
            replies = [Reply(*each) for each in zip(self._generate(prefilled), likelihoods, strict=True)]
            for number, own in enumerate(by_video):
                own += replies[number * len(asked) : (number + 1) * len(asked)]
        yield from by_video

    def _prefill_videos(self, videos: Sequence[PrunedVideo], before: list[int]) -> DynamicCache:
        """The cache of the prompts up to the end of the videos, R batch entries."""
        family, count = self.llm.family, len(videos)
        text = self._embed(torch.tensor(before, dtype=torch.long, device=family.device)).expand(count, -1, -1)
        embeds = torch.cat([text, torch.stack([video.features for video in videos])], dim=1)
        front = torch.arange(len(before), device=embeds.device).expand(count, -1)
        positions = torch.cat([front, len(before) + torch.stack([video.positions for video in videos])], dim=1)
        return cache_in(family.decoder(**{Arg.EMBEDS: embeds, Arg.POSITIONS: positions, Arg.USE_CACHE: True}))

    def _prefill_questions(self, cache: DynamicCache, starts: list[int], after: list[list[int]]) -> "_Prefilled":
        """Append every question to every video, padded on the left."""
        device = self.llm.family.device
        longest = max(map(len, after))
        ids = torch.zeros(len(after), longest, dtype=torch.long, device=device)
        mask = torch.zeros(len(after), longest, dtype=torch.long, device=device)
        for number, tokens in enumerate(after):
            ids[number, longest - len(tokens) :] = torch.tensor(tokens)
            mask[number, longest - len(tokens) :] = 1
        count = len(starts)
        first = torch.tensor(starts, device=device).repeat_interleave(len(after))[:, None]
        positions = first + (mask.cumsum(1) - 1).clamp_min(0).repeat(count, 1)
        past = mask.new_ones(len(positions), cache.get_seq_length())
        cache = _repeated(cache, len(after))
        mask = torch.cat([past, mask.repeat(count, 1)], dim=1)
        logits = self._forward(ids.repeat(count, 1), cache, mask, positions)[:, -1]
        if bool(logits.isnan().any()):
            raise InputError("the model's output has NaN values: check its weights")
        return _Prefilled(cache, mask, positions[:, -1] + 1, logits)

    def _likelihoods(self, prefilled: "_Prefilled", choices: Sequence[tuple[str, ...]]) -> list[tuple[float, ...]]:
        """The summed log-probabilities of the tokens of each choice, as the beginning of the answer."""
        ids = [[self._ids(choice) for choice in offered] for offered in choices]
        first = prefilled.logits.log_softmax(-1)
        heads = iter(first[[e for e, o in enumerate(ids) for _ in o], [t[0] for o in ids for t in o]].tolist())
        totals = [[next(heads) for _ in offered] for offered in ids]
        # One longer choice of each entry at a time: they continue from the same cache, which is not copied.
        longer = [[place for place, tokens in enumerate(offered) if len(tokens) > 1] for offered in ids]
        for turn in range(max(map(len, longer), default=0)):
            chosen = {entry: places[turn] for entry, places in enumerate(longer) if turn < len(places)}
            rest = self._later(prefilled, {entry: ids[entry][place] for entry, place in chosen.items()})
            for entry, place in chosen.items():
                totals[entry][place] += rest[entry]
        return [tuple(each) for each in totals]

    def _later(self, prefilled: "_Prefilled", continuations: Mapping[int, list[int]]) -> list[float]:
        """For each batch entry, the log-probability of all tokens but the first of its continuation, 0 without one."""
        device = prefilled.mask.device
        longest = max(map(len, continuations.values()))
        ids = torch.zeros(len(prefilled.mask), longest, dtype=torch.long, device=device)
        valid = torch.zeros_like(ids)
        for entry, tokens in continuations.items():
            ids[entry, : len(tokens)] = torch.tensor(tokens)
            valid[entry, : len(tokens)] = 1
        # Entries without a continuation have a token that nothing reads.
        mask = torch.cat([prefilled.mask, valid[:, :-1]], dim=1)
        positions = prefilled.next[:, None] + torch.arange(longest - 1, device=device)
        logits = self._forward(ids[:, :-1], prefilled.cache, mask, positions)
        for layer in prefilled.cache.layers:
            layer.rewind(longest - 1)
        scores: list[float] = (
            (logits.log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0] * valid[:, 1:]).sum(1).tolist()
        )
        return scores

    def _generate(self, prefilled: "_Prefilled") -> list[str]:
        """Greedy answers; the cache is extended in place."""
        ids = prefilled.logits.argmax(-1, keepdim=True)
        generated, mask = [ids], prefilled.mask
        for step in range(MAX_NEW_TOKENS - 1):
            if bool(torch.isin(torch.cat(generated, 1), self._ends).any(1).all()):
                break
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            ids = self._forward(ids, prefilled.cache, mask, prefilled.next[:, None] + step)[:, -1].argmax(
                -1, keepdim=True
            )
            generated.append(ids)
        return [self._text(tokens) for tokens in torch.cat(generated, 1).tolist()]

    def _text(self, tokens: list[int]) -> str:
        ends = [place for place, token in enumerate(tokens) if token in self._ends.tolist()]
        return self.llm.tokenizer.decode(tokens[: ends[0] if ends else None], skip_special_tokens=True).strip()

    def _forward(self, ids: Tensor, cache: DynamicCache, mask: Tensor, positions: Tensor) -> Tensor:
        """Logits of new tokens (B, S) that follow the cached ones."""
        decoder: Any = self.llm.family.decoder
        arguments = {Arg.EMBEDS: self._embed(ids), Arg.MASK: mask, Arg.POSITIONS: positions}
        output = decoder(**arguments, **cache_for(decoder.forward, cache))
        logits: Tensor = self.llm.model.get_output_embeddings()(output.last_hidden_state)
        return logits.float()

    def _embed(self, ids: Tensor) -> Tensor:
        return self.llm.model.get_input_embeddings()(ids)

    def _ids(self, text: str) -> list[int]:
        if text not in self._token_ids:
            self._token_ids[text] = self.llm.tokenizer(text).input_ids
        return self._token_ids[text]


@dataclass(frozen=True, eq=False)
class _Prefilled:
    """Prefilled prompts: the cache, its mask (B, n), the next position (B,) and the logits there (B, vocabulary)."""

    cache: DynamicCache
    mask: Tensor
    next: Tensor
    logits: Tensor


def _repeated(cache: DynamicCache, times: int) -> DynamicCache:
    """A new cache with each batch entry so many times; the answers are written into it without copying it again."""
    made = DynamicCache()
    made.layers = [GrowingLayer.of(layer) for layer in cache.layers]
    made.batch_repeat_interleave(times)
    return made
