"""What the commands that run a model share: loading it, asking it with progress bars, and writing the HTML report."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tangovlm
from tangovlm import registry
from tangovlm.errors import InputError
from tangovlm.methods import build
from tangovlm.methods.build import Pair
from tangovlm.report import Exchange, html_page, scene, write_whole

from .output import stage_bars

if TYPE_CHECKING:
    from tangovlm.pipeline.ask import Answer
    from tangovlm.pipeline.load import VideoLLM
    from tangovlm.tokens import Pruner

    from .options import Dtype, Saliency


def load(
    model: str | None, *, dtype: Dtype | None = None, saliency: Saliency | None = None, **options: Any
) -> VideoLLM:
    """Call `tangovlm.load` with options as the command line parses them."""
    import torch

    torch_dtype: torch.dtype | None = None if dtype is None else getattr(torch, dtype.value)
    kind = None if saliency is None else saliency.value
    return tangovlm.load(model, dtype=torch_dtype, saliency=kind, **options)


@dataclass(frozen=True)
class Run:
    """Call `tangovlm.ask` for one video and one model, with progress bars.

    Parameters
    ----------
    record: keep what the report needs, for every call that does not set it itself.
    frames, max_new_tokens, positions, chunk_frames, newlines: see `tangovlm.ask`.
    """

    video: str | Path
    llm: VideoLLM
    frames: int | None
    max_new_tokens: int
    record: bool
    positions: str | None = None
    chunk_frames: int | None = None
    newlines: str = "kept"

    def __call__(self, question: str, pruner: Pruner, prefix: str = "", **changes: Any) -> Answer:
        """Ask one question.

        Parameters
        ----------
        prefix: precedes the text of the progress bars.
        changes: keyword arguments of `tangovlm.ask` for this call only.
        """
        options = {
            "frames": self.frames,
            "max_new_tokens": self.max_new_tokens,
            "record": self.record,
            "positions": self.positions,
            "chunk_frames": self.chunk_frames,
            "newlines": self.newlines,
        } | changes
        with stage_bars(prefix) as progress:
            return tangovlm.ask(self.video, question, model=self.llm, method=pruner, progress=progress, **options)

    def warm_up(self, question: str, pruner: Pruner) -> None:
        """Ask once and drop the answer, because the first call in a process is slower than later ones."""
        self(question, pruner, "warming up: ", max_new_tokens=1, record=False)


def write_page(path: Path, exchanges: list[Exchange], title: str, settings: dict[str, object]) -> None:
    """Write the HTML report of exchanges whose first answer was recorded."""
    answer = exchanges[0].answer
    page = html_page(scene(answer.frames, answer.video), exchanges, title=title, settings=settings)
    # A file name may contain bytes that are not valid text.
    write_whole(path, page.encode(errors="replace"))


def hyper_parameters(pruner: Any) -> dict[str, Any]:
    """The fields of a method that its constructor accepts, with their values."""
    return {field.name: getattr(pruner, field.name) for field in fields(pruner) if field.init}


def settings_of(pruner: Pruner) -> dict[str, object]:
    """Name and hyper-parameters of a method, for a report."""
    return {"method": pruner.name} | hyper_parameters(pruner)


def unpruned(pruner: Pruner) -> Pruner:
    """The same method with every token kept."""
    return build.method(pruner.name, retention=1.0)


def with_sinks(pruner: Any, file: Path) -> Any:
    """A copy of a method or a pair that masks the sink tokens listed in a file.

    Raises
    ------
    InputError: a method that masks no sinks.
    MethodError: an invalid file, see `tangovlm.Tango`.
    """
    if isinstance(pruner, Pair):
        return replace(pruner, before=with_sinks(pruner.before, file))
    if not _masks_sinks(pruner):
        able = [name for name, cls in registry.methods().items() if _masks_sinks(cls)]
        raise InputError(f"--sink-tokens does not go with the method {pruner.name}: use {' or '.join(able)}")
    return replace(pruner, sink_tokens=file)


def _masks_sinks(method: Any) -> bool:
    return any(field.name == "sink_tokens" for field in fields(method))
