"""Which questions go into one call of the model, and the videos that they share."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from tangovlm.models.common.prompt_format import VideoInput
from tangovlm.models.common.transformers_compat import Arg
from tangovlm.pipeline.frame_source import Source
from tangovlm.pipeline.load import VideoLLM
from tangovlm.session.memo import Memo
from tangovlm.video import Frames

from .requests import Media, Request


@dataclass(eq=False)
class Batch:
    """Videos that are decoded and prepared, and what the encoder made of them."""

    key: list[Any]
    sources: list[Source]
    memo: Memo = field(default_factory=Memo)
    media: dict[str, Any] | None = None

    @property
    def timestamps(self) -> list[Tensor]:
        return [source.timestamps_s for source in self.sources]

    def decode_ms(self) -> float:
        return sum(source.decode_ms() for source in self.sources)

    def prepare_ms(self) -> float:
        return sum(source.prepare_ms() for source in self.sources)

    def of_row(self, sizes: Sequence[int], row: int) -> list[Source]:
        """The videos of one question, where the questions have so many."""
        first = sum(sizes[:row])
        return self.sources[first : first + sizes[row]]

    def inputs(self, llm: VideoLLM, texts: Sequence[str]) -> dict[str, Tensor]:
        """Arguments of `generate`; pixels are the very same tensors each time, by which the memo knows them."""
        videos = [VideoInput(each.pixels, each.timestamps_s, each.duration_s) for each in self.sources]
        inputs = llm.family.build_inputs(llm.tokenizer, texts, videos)
        inputs = {name: tensor.to(llm.family.device) for name, tensor in inputs.items()}
        words = {Arg.IDS, Arg.MASK, *llm.family.token_types(inputs[Arg.IDS])}
        if self.media is None:
            self.media = {name: tensor for name, tensor in inputs.items() if name not in words}
        return inputs | self.media


def batches(requests: Sequence[Request], size: int) -> Iterator[list[int]]:
    """Places of requests, at most so many different videos at a time, all questions about a video one after another.

    Videos whose questions are as many and have the same limits go together, so that the same ones meet until they have
    no question left.
    """
    groups: dict[tuple[Any, ...], list[int]] = {}
    for place, request in enumerate(requests):
        groups.setdefault(tuple(map(key_of, request.videos)), []).append(place)
    alike: dict[tuple[Any, ...], list[list[int]]] = {}
    for videos, places in groups.items():
        kinds = list(dict.fromkeys(requests[place].limits for place in places))
        places.sort(key=lambda place: kinds.index(requests[place].limits))
        shape = len(videos), *(requests[place].limits for place in places)
        alike.setdefault(shape, []).append(places)
    for found in alike.values():
        for start in range(0, len(found), size):
            for row in zip(*found[start : start + size], strict=True):
                yield list(row)


def key_of(video: Media) -> Any:
    """What tells videos apart: the file as it is now, or the very frames."""
    if isinstance(video, Frames):
        # Whoever compares keys holds the frames, so that their number is no other's.
        return id(video)
    try:
        status = Path(video).stat()
    except OSError:
        # Decoding says what is wrong with it.
        return str(video)
    return str(Path(video).resolve()), status.st_mtime_ns, status.st_size
