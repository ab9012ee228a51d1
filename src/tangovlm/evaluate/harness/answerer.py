"""Answers the requests of a harness with one model and one method; a video is encoded once for all its questions.

Requests are grouped by their videos. The first question about a video decodes, encodes and prunes it, and the other
questions reuse the result. Each question still has its own call of `generate`, so that the answers are bit-identical to
those without grouping. With a batch size above one, a call has questions about that many different videos, and the next
call has the next question about each of them.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import StoppingCriteria

from tangovlm.errors import InputError
from tangovlm.inputs import chat
from tangovlm.machine.memory import memory_guard
from tangovlm.models.common.transformers_compat import Arg
from tangovlm.pipeline import load as loading
from tangovlm.pipeline.embedded import BUILTIN_NOTE
from tangovlm.pipeline.frame_source import Source, decoded_source
from tangovlm.pipeline.generation import refuse_nan
from tangovlm.pipeline.load import VideoLLM
from tangovlm.session.attach import attach_family
from tangovlm.session.memo import Memo
from tangovlm.tokens import VideoReport
from tangovlm.video import Frames, decode, duration_s

from .batches import Batch, plan_batches, video_key
from .peak_memory import PeakMemory
from .requests import STAGES, Completion, Media, OnCompletion, Request
from .settings import Settings


class Backend(Protocol):
    """Answers requests."""

    def answer(self, requests: Sequence[Request], on_completion: OnCompletion | None = None) -> list[Completion]: ...


def load_backend(settings: Settings) -> Backend:
    """The backend that the settings name, with its model loaded.

    Raises
    ------
    TangoError: see `Answerer` and `vllm_answerer.VllmAnswerer`.
    """
    if settings.backend == "vllm":
        from .vllm_answerer import VllmAnswerer

        return VllmAnswerer(settings)
    return Answerer(settings)


class Answerer:
    """A stock model in this process with a method attached.

    Parameters
    ----------
    settings: of the model and the method.
    llm: a loaded model; None to load the one that the settings name.

    Raises
    ------
    TangoError: see `tangovlm.load` and `tangovlm.attach`.

    Example
    -------
    >>> answerer = Answerer(Settings("tangovlm-tiny", retention=0.5))  # doctest: +SKIP
    >>> answerer.answer([Request("Which way does the star move?", ["clip.mp4"])])[0].text  # doctest: +SKIP
    'left'
    """

    def __init__(self, settings: Settings, llm: VideoLLM | None = None) -> None:
        self.settings = settings
        self.llm = load_model(settings) if llm is None else llm.limited(settings.max_frame_pixels)
        self.pruner = settings.pruner()
        self._last_batch: Batch | None = None
        # Refuses a method that does not fit the model.
        with self._attach(None, None):
            pass

    def answer(self, requests: Sequence[Request], on_completion: OnCompletion | None = None) -> list[Completion]:
        """The completion of every request, in the order of the requests.

        Parameters
        ----------
        on_completion: called with each completion as soon as it is available.

        Raises
        ------
        TangoError: a video that cannot be decoded, a prompt that is too long, too little memory, or NaN in the output
            of the model; `on_completion` has been called for all earlier completions.
        """
        completions: dict[int, Completion] = {}
        for indices in plan_batches(requests, self.settings.batch_size):
            batch = self._answer_batch([requests[index] for index in indices])
            for index, completion in zip(indices, batch, strict=True):
                completions[index] = completion
                if on_completion is not None:
                    on_completion(index, completion)
        return [completions[index] for index in range(len(requests))]

    # --- one call of the model ------------------------------------------------------------------------------------

    def _answer_batch(self, requests: Sequence[Request]) -> list[Completion]:
        llm, options = self.llm, requests[0].options
        with PeakMemory(llm.family.device) as peak:
            batch, shared = self._prepare_batch([request.videos for request in requests])
            texts = [render_prompt(llm, request) for request in requests]
            inputs = batch.inputs(llm, texts)
            length = inputs[Arg.IDS].shape[1]
            stops = [_StopStrings(self._text, options.until, length)] if options.until else []
            with (
                self._attach(batch.timestamps, batch.memo) as session,
                memory_guard(llm.family.device, "answering", "take a smaller batch_size, or fewer frames"),
            ):
                output = llm.model.generate(
                    **inputs, **options.generate_kwargs, logits_processor=[refuse_nan], stopping_criteria=stops
                )
        generated, report = output[:, length:], session.report
        prepare_ms = {} if shared else {"decode": batch.decode_ms(), "encode": batch.prepare_ms()}
        times = {stage: report.timings_ms.get(stage, 0.0) + prepare_ms.get(stage, 0.0) for stage in STAGES}
        builtin = (BUILTIN_NOTE,) if llm.builtin else ()
        notes = (*report.notes, *llm.family.prompt.notes(llm.config), *builtin)
        reports, sizes = iter(report.videos), [len(request.videos) for request in requests]
        return [
            _completion(
                options.cut(self._text(ids)),
                [next(reports) for _ in range(size)],
                batch.sources_of(number, sizes),
                prompt_tokens=int(inputs[Arg.MASK][number].sum()),
                output_tokens=self._token_count(ids),
                times_ms={stage: ms / len(requests) for stage, ms in times.items()},
                shared=shared and size > 0,
                batch=len(requests),
                peak_bytes=peak.bytes,
                notes=notes,
            )
            for number, (ids, size) in enumerate(zip(generated, sizes, strict=True))
        ]

    def _attach(self, timestamps: list[Tensor] | None, memo: Memo | None) -> Any:
        return attach_family(
            self.llm.family,
            self.pruner,
            timestamps=timestamps or None,
            positions=self.settings.positions,
            newlines=self.settings.newlines or "kept",
            in_turn=True,
            memo=memo,
        )

    def _prepare_batch(self, videos: Sequence[Sequence[Media]]) -> tuple[Batch, bool]:
        """The decoded videos of a batch, and whether they are those of the last batch."""
        flat = [video for of_request in videos for video in of_request]
        key = [video_key(video) for video in flat]
        if self._last_batch is not None and self._last_batch.key == key:
            return self._last_batch, True
        # Frees the memory of the last batch before the next one is decoded.
        self._last_batch = None
        self._last_batch = Batch(key, [self._source(video) for video in flat])
        return self._last_batch, False

    def _source(self, video: Media) -> Source:
        llm, start = self.llm, perf_counter()
        clip = video if isinstance(video, Frames) else self._decode(video)
        decode_ms = 0.0 if isinstance(video, Frames) else 1000 * (perf_counter() - start)
        return decoded_source(clip, decode_ms, llm.family, llm.config, resized=not isinstance(video, Frames))

    def _decode(self, video: str | Path) -> Frames:
        settings, llm = self.settings, self.llm
        if settings.fps is None:
            count = settings.frames or llm.default_frames
        else:
            count = max(1, int(settings.fps * duration_s(video) + 0.5))
            count = min(count, settings.frames or count)
        return decode(video, count, fit=partial(llm.family.prompt.frame_size, llm.config))

    def _text(self, ids: Tensor) -> str:
        text: str = self.llm.tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def _token_count(self, ids: Tensor) -> int:
        """Tokens of an answer up to and including its end-of-sequence token."""
        eos = self.llm.model.generation_config.eos_token_id
        ends = torch.tensor(eos if isinstance(eos, list) else [] if eos is None else [eos], device=ids.device)
        (places,) = torch.isin(ids, ends).nonzero(as_tuple=True)
        return int(places[0]) + 1 if len(places) else len(ids)


class _StopStrings(StoppingCriteria):
    """Ends each batch entry whose generated text contains a stop string."""

    def __init__(self, text: Callable[[Tensor], str], until: tuple[str, ...], prompt: int) -> None:
        self._text = text
        self._until = until
        self._prompt = prompt

    def __call__(self, input_ids: Tensor, scores: Any, **_options: Any) -> Tensor:
        del scores
        texts = [self._text(ids[self._prompt :]) for ids in input_ids]
        done = [any(end in text for end in self._until) for text in texts]
        return torch.tensor(done, device=input_ids.device)


def load_model(settings: Settings) -> VideoLLM:
    """Load the model that the settings name; see `tangovlm.load`."""
    dtype = settings.dtype
    return loading.load(
        settings.checkpoint,
        device=settings.device,
        device_map=settings.device_map,
        dtype=None if dtype in (None, "auto") else getattr(torch, str(dtype)),
        saliency=settings.saliency,
        head_weights=settings.head_weights,
        max_frame_pixels=settings.max_frame_pixels,
    )


def render_prompt(llm: VideoLLM, request: Request) -> str:
    """The prompt of a request in the checkpoint's chat template, with a video token for each video.

    Raises
    ------
    InputError: images, a text that contains placeholders of visual tokens, or no conversation.
    ModelError: the chat template does not accept the conversation.
    """
    family, tokenizer = llm.family, llm.tokenizer
    (turns,), _ = chat.conversations(request.turns)
    token, template = family.prompt.video_token(tokenizer), family.prompt.template(llm.template)
    texts = [turn["content"] for turn in turns if isinstance(turn["content"], str)]
    texts += [part["text"] for part in chat.parts(turns, "text")]
    for reserved in (token, *family.prompt.reserved(tokenizer)):
        if any(reserved in text for text in texts):
            raise InputError(f"the prompt contains {reserved!r}, which stands for visual tokens: leave it out")
    if template is None and getattr(tokenizer, "chat_template", None) is None:
        # The format of `tangovlm.ask` for a checkpoint without a chat template.
        return token * len(request.videos) + "\n" + "\n".join(texts) + "\n"
    return chat.render(tokenizer, template, turns, token, add_generation_prompt=True)


def _completion(text: str, reports: Sequence[VideoReport], videos: Sequence[Source], **fields: Any) -> Completion:
    layers = [report.tokens_per_layer for report in reports if report.tokens_per_layer]
    clips = [source.frames() for source in videos]
    notes = (*(note for clip in clips for note in clip.notes), *fields.pop("notes"))
    return Completion(
        text,
        tokens_before=sum(report.tokens_before for report in reports),
        tokens_after=sum(report.tokens_after for report in reports),
        newlines_before=sum(report.newlines_before for report in reports),
        newlines_after=sum(report.newlines_after for report in reports),
        frames=sum(len(clip.pixels) for clip in clips),
        tokens_per_layer=tuple(map(sum, zip(*layers, strict=True))),
        notes=tuple(dict.fromkeys(notes)),
        **fields,
    )
