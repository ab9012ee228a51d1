"""A model with VLMEvalKit's interface that answers through a `Backend` and records each answer immediately."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from tangovlm.errors import InputError
from tangovlm.report import provenance

from ..answerer import Answerer, Backend, load_backend
from ..records import Record, Records, read, request_key
from ..requests import GenerationOptions, Request
from ..settings import Settings

VIDEO_FIRST = ("llava-onevision", "llava-video", "llava-next-video")
"""Families whose prompts have the video before all text, as in the authors' release for LLaVA.

Other families use VLMEvalKit's order, which has a data set's system text before the video."""


class StopRun(BaseException):
    """Ends a run of VLMEvalKit, which catches every `Exception` and continues with the next data set."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def model_builder(settings: Settings, folder: Path, options: GenerationOptions) -> Callable[..., Any]:
    """The entry of `supported_VLM` for our model: a function that constructs it.

    Parameters
    ----------
    settings: of model and method; the data preset sets `frames`.
    folder: of the records; VLMEvalKit itself saves answers only occasionally.
    options: of the generation of each answer.
    """

    def build(use_vllm: bool = False, **_options: Any) -> Any:
        if use_vllm:
            raise StopRun(InputError("--use-vllm is for VLMEvalKit's own models: give --param backend=vllm instead"))
        from vlmeval.vlm.base import BaseModel

        class Model(BaseModel):
            VIDEO_LLM = True
            INTERLEAVE = False

            def __init__(self) -> None:
                super().__init__()
                self.answerer = MessageAnswerer(settings, folder, options)

            def use_custom_prompt(self, dataset: str) -> bool:
                del dataset
                return False

            def generate_inner(self, message: Sequence[Mapping[str, Any]], dataset: str | None = None) -> str:
                del dataset
                try:
                    return self.answerer(message)
                except Exception as error:
                    raise StopRun(error) from error

        return Model()

    return build


class MessageAnswerer:
    """Answers VLMEvalKit's messages; a message that has been recorded is not answered again.

    Parameters
    ----------
    settings, folder, options: see `model_builder`.

    Example
    -------
    >>> answerer = MessageAnswerer(Settings("tangovlm-tiny"), Path("out"), GenerationOptions())  # doctest: +SKIP
    >>> answerer([{"type": "video", "value": "a.mp4", "frames": 8, "task": "Video-MME_8frame", "doc": "0"}, \
{"type": "text", "value": "What color is the star?"}])  # doctest: +SKIP
    'red'
    """

    def __init__(self, settings: Settings, folder: Path, options: GenerationOptions) -> None:
        self._settings = settings
        self._folder = folder
        self._options = options
        self._known: Mapping[str, Record] | None = None
        self._backend: Backend | None = None
        self._records: Records | None = None
        self._stack = ExitStack()

    def __call__(self, message: Sequence[Mapping[str, Any]]) -> str:
        """The answer to one message.

        Raises
        ------
        TangoError: a message with images, or without a number of frames; see `Records`, `answerer.load_backend` and
            `Answerer.answer`.
        """
        parts = merge_parts(message)
        frames, task, doc = _question(message)
        known = self._select_frames(frames)
        conversation = [{"role": "user", "content": parts}]
        key = request_key(task, doc, Request(conversation=conversation, options=self._options))
        if key in known:
            return known[key].completion.text
        backend, records = self._load()
        family = backend.llm.family.name if isinstance(backend, Answerer) else VIDEO_FIRST[0]
        (completion,) = backend.answer([build_request(parts, family, self._options)])
        records.add(Record(task, doc, key, completion))
        return completion.text

    def _select_frames(self, frames: int) -> Mapping[str, Record]:
        """Set the number of frames, and return the records with this number, which have their own folder."""
        if self._known is None or self._settings.frames != frames:
            self._stack.close()
            self._records = None
            self._settings = replace(self._settings, frames=frames)
            if self._backend is not None:
                loaded = self._backend.llm if isinstance(self._backend, Answerer) else None
                self._backend = None if loaded is None else Answerer(self._settings, loaded)
            self._known = read(self._records_folder, self._settings).records
        return self._known if self._records is None else self._records.known

    def _load(self) -> tuple[Backend, Records]:
        """The model and the open records; the model is loaded for the first question without a record."""
        if self._backend is None:
            self._backend = load_backend(self._settings)
        if self._records is None:
            llm = self._backend.llm if isinstance(self._backend, Answerer) else None
            about = {} if llm is None else provenance.machine(llm.family.device)
            rank = int(os.environ.get("RANK", "0"))
            self._records = self._stack.enter_context(Records(self._records_folder, self._settings, rank, about))
        return self._backend, self._records

    @property
    def _records_folder(self) -> Path:
        return self._folder / f"{self._settings.frames}frame"


def build_request(parts: Sequence[Mapping[str, str]], family: str, options: GenerationOptions) -> Request:
    """The request for a model of a family, with text and video in the order of the authors' release.

    Parameters
    ----------
    parts: of `merge_parts`.
    family: see `VIDEO_FIRST`.

    Example
    -------
    >>> parts = merge_parts([{"type": "text", "value": "Watch. "}, {"type": "video", "value": "a.mp4"}, \
{"type": "text", "value": "Who?"}])
    >>> build_request(parts, "llava-onevision", GenerationOptions()).text
    'Watch. Who?'
    >>> [part["type"] for part in build_request(parts, "qwen2.5-vl", GenerationOptions()).turns[0]["content"]]
    ['text', 'video', 'text']
    """
    if family in VIDEO_FIRST:
        text = "".join(part["text"] for part in parts if part["type"] == "text")
        return Request(text, [part["video"] for part in parts if part["type"] == "video"], options=options)
    return Request(conversation=[{"role": "user", "content": list(parts)}], options=options)


def merge_parts(message: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The parts of the user's turn, with consecutive texts concatenated.

    Text that VLMEvalKit marks as the assistant's, MVBench's "Best option:(", stays in the user's turn, as in the
    authors' release.

    Raises
    ------
    InputError: an image.

    Example
    -------
    >>> texts = [{"type": "text", "value": "Who?"}, {"type": "text", "value": " Only the letter."}]
    >>> merge_parts([{"type": "video", "value": "a.mp4"}, *texts])
    [{'type': 'video', 'video': 'a.mp4'}, {'type': 'text', 'text': 'Who? Only the letter.'}]
    """
    parts: list[dict[str, str]] = []
    for part in message:
        kind, value = part["type"], part["value"]
        if kind == "video":
            parts.append({"type": "video", "video": value})
        elif kind != "text":
            raise InputError(f"VLMEvalKit asks about the {kind} {value}: only data sets of videos are supported")
        elif parts and parts[-1]["type"] == "text":
            parts[-1]["text"] += value
        elif value:
            parts.append({"type": "text", "text": value})
    return parts


def _question(message: Iterable[Mapping[str, Any]]) -> tuple[int, str, str]:
    """The number of frames, the preset and the question's index, which `presets` adds to the part of the video."""
    for part in message:
        if part["type"] == "video" and part.get("frames"):
            return int(part["frames"]), part["task"], part["doc"]
    raise InputError("VLMEvalKit does not pass a number of frames: name presets with a number of frames")
