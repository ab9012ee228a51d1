"""Batches of questions for one call of the model, and the videos that they share."""

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
    """The decoded videos of a batch, and the memo of their encoded features.

    Parameters
    ----------
    key: `video_key` of each video.
    sources: the videos, in the order of the prompts.
    memo: see `session.memo.Memo`.
    media: model inputs of the videos, filled by the first call of `inputs`.
    """

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

    def sources_of(self, number: int, sizes: Sequence[int]) -> list[Source]:
        """The videos of one question.

        Parameters
        ----------
        number: of the question within the batch.
        sizes: number of videos of each question.
        """
        first = sum(sizes[:number])
        return self.sources[first : first + sizes[number]]

    def inputs(self, llm: VideoLLM, texts: Sequence[str]) -> dict[str, Tensor]:
        """Arguments of `generate`. The pixels are the same tensors in every call, so that the memo recognizes them."""
        videos = [VideoInput(each.pixels, each.timestamps_s, each.duration_s) for each in self.sources]
        inputs = llm.family.prompt.build_inputs(llm.tokenizer, texts, videos)
        inputs = {name: tensor.to(llm.family.device) for name, tensor in inputs.items()}
        text_arguments = {Arg.IDS, Arg.MASK, *llm.family.prompt.token_types(inputs[Arg.IDS])}
        if self.media is None:
            self.media = {name: tensor for name, tensor in inputs.items() if name not in text_arguments}
        return inputs | self.media


def plan_batches(requests: Sequence[Request], size: int) -> Iterator[list[int]]:
    """Yield batches of indices of requests, with at most `size` different videos per batch.

    All questions about a video are in consecutive batches. A batch combines videos with equally many questions and the
    same generation options, so that the same videos stay together until all their questions are answered.
    """
    by_video: dict[tuple[Any, ...], list[int]] = {}
    for index, request in enumerate(requests):
        by_video.setdefault(tuple(map(video_key, request.videos)), []).append(index)
    by_shape: dict[tuple[Any, ...], list[list[int]]] = {}
    for videos, indices in by_video.items():
        options = list(dict.fromkeys(requests[index].options for index in indices))
        indices.sort(key=lambda index: options.index(requests[index].options))
        shape = len(videos), *(requests[index].options for index in indices)
        by_shape.setdefault(shape, []).append(indices)
    for groups in by_shape.values():
        for start in range(0, len(groups), size):
            for batch in zip(*groups[start : start + size], strict=True):
                yield list(batch)


def video_key(video: Media) -> Any:
    """Identifies a video: a file by path, time of change and size, decoded frames by identity."""
    if isinstance(video, Frames):
        # Whoever compares keys holds the frames, so that their number is no other's.
        return id(video)
    try:
        status = Path(video).stat()
    except OSError:
        # Decoding reports the error.
        return str(video)
    return str(Path(video).resolve()), status.st_mtime_ns, status.st_size
