"""`tangovlm ask`: one question about one video."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from tangovlm import registry
from tangovlm.errors import InputError
from tangovlm.inputs.prompting import check_question
from tangovlm.methods import build
from tangovlm.methods.build import Pair
from tangovlm.report import Exchange, heading, html_page, scene, write_whole

from ..checks import check_at_least_one, check_report, check_video, device
from ..output import only_results, plain, show, show_json, stage_bars, talk, talk_notes
from ..tables import figures_line, figures_rows
from .methods import settings

if TYPE_CHECKING:
    from tangovlm.pipeline.ask import Answer
    from tangovlm.pipeline.load import VideoLLM
    from tangovlm.tokens import Pruner


class Saliency(StrEnum):
    """How the vision encoder's attention becomes a saliency."""

    P_ATTN = "p-attn"
    ATTN = "attn"
    MEAN_QUERY = "mean-query"


class Positions(StrEnum):
    """Which position ids the kept tokens get."""

    CONTIGUOUS = "contiguous"
    ORIGINAL = "original"


class Newlines(StrEnum):
    """Whether a budget holds newlines; see `tangovlm.attach`."""

    KEPT = "kept"
    COUNTED = "counted"


class Dtype(StrEnum):
    """Number formats that a model can be loaded in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


def ask(
    video: Annotated[str, typer.Argument(help="A video file.", show_default=False)],
    question: Annotated[str, typer.Argument(help="What to ask about it.", show_default=False)],
    model: Annotated[
        str | None, typer.Option(help="A model's folder or hub id; left out, the embedded model.", show_default=False)
    ] = None,
    method: Annotated[str, typer.Option(help="How to reduce the tokens; see `tangovlm methods`.")] = "tango",
    retention: Annotated[float, typer.Option(help="The fraction of the visual tokens to keep, in (0, 1].")] = 0.1,
    frames: Annotated[
        int | None,
        typer.Option(help="How many frames to take; left out, the model's own number.", show_default=False),
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Ask with all tokens too, and show both.")] = False,
    report: Annotated[
        Path | None, typer.Option(help="Write an HTML page that shows what was kept.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON; all talk on stderr.")] = False,
    device_name: Annotated[
        str | None, typer.Option("--device", help="Where to run, such as cpu or cuda.", show_default=False)
    ] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="The model's number format.", show_default=False)] = None,
    head_weights: Annotated[
        str | None,
        typer.Option(help="A checkpoint (path or hub id) with the pooling head for p-attn.", show_default=False),
    ] = None,
    saliency: Annotated[
        Saliency | None,
        typer.Option(help="The signal that says which tokens matter; left out, the method's own.", show_default=False),
    ] = None,
    sink_tokens: Annotated[
        Path | None,
        typer.Option(
            help="A file of `tangovlm inspect sinks`: positions whose saliency does not count; left out, what is known "
            "of the model.",
            show_default=False,
        ),
    ] = None,
    positions: Annotated[
        Positions | None,
        typer.Option(
            help="Position ids of the kept tokens: without gaps, or as in the unpruned prompt; left out, what the "
            "model's family takes.",
            show_default=False,
        ),
    ] = None,
    chunk_frames: Annotated[
        int | None,
        typer.Option(
            help="The most frames that the vision encoder sees at a time; left out, 8 on CUDA, where decoding goes on "
            "meanwhile, and what takes about 512 MiB on the CPU; all at once where nothing is pruned before the "
            "language model.",
            show_default=False,
        ),
    ] = None,
    max_frame_pixels: Annotated[
        int | None,
        typer.Option(
            help="The most pixels of a frame, height times width, for models that take any size (448 x 448 is 200704); "
            "left out, what the checkpoint asks for.",
            show_default=False,
        ),
    ] = None,
    newlines: Annotated[
        Newlines,
        typer.Option(
            help="For a model with newlines between its tokens (LLaVA-Video): those that stay come on top of the "
            "retention, or are counted within it."
        ),
    ] = Newlines.KEPT,
    max_new_tokens: Annotated[int, typer.Option(help="The longest answer, in tokens.")] = 64,
) -> None:
    """Ask a question about a video, with a fraction of its visual tokens."""
    check_question(question)
    check_at_least_one("--frames", frames)
    check_at_least_one("--chunk-frames", chunk_frames)
    check_at_least_one("--max-frame-pixels", max_frame_pixels)
    check_at_least_one("--max-new-tokens", max_new_tokens)
    pruner = build.method(method, retention=retention)
    if sink_tokens is not None:
        pruner = with_sinks(pruner, sink_tokens)
    check_video(video)
    if report is not None:
        check_report(report, video)
    with only_results():
        llm = load(
            model,
            device=device(device_name),
            dtype=dtype,
            saliency=saliency,
            head_weights=head_weights,
            max_frame_pixels=max_frame_pixels,
        )
        run = Run(
            video,
            llm,
            frames,
            max_new_tokens,
            record=report is not None,
            positions=None if positions is None else positions.value,
            chunk_frames=chunk_frames,
            newlines=newlines.value,
        )
        exchange = _compared(run, question, pruner) if compare else Exchange(question, run(question, pruner))
        if report is not None:
            shown = {
                "video": video,
                "model": llm.name,
                "saliency": llm.family.resolve_saliency(getattr(pruner, "signal", None)),
            } | settings_of(pruner)
            write_page(report, [exchange], Path(video).name, shown)
    talk_notes(exchange.answers)
    if report is not None:
        talk(f"report: {report}")
    _show(exchange, as_json)


def load(
    model: str | None, *, dtype: Dtype | None = None, saliency: Saliency | None = None, **options: Any
) -> VideoLLM:
    """`loading.load` with the options as the command line has them."""
    import torch

    from tangovlm.pipeline import load as loading

    number_format: torch.dtype | None = None if dtype is None else getattr(torch, dtype.value)
    kind = None if saliency is None else saliency.value
    return loading.load(model, dtype=number_format, saliency=kind, **options)


def write_page(path: Path, exchanges: list[Exchange], title: str, shown: dict[str, object]) -> None:
    """Write the HTML report of exchanges whose first answer was recorded."""
    answer = exchanges[0].answer
    page = html_page(scene(answer.frames, answer.video), exchanges, title=title, settings=shown)
    # The name of a file may hold bytes that are no text.
    write_whole(path, page.encode(errors="replace"))


def settings_of(pruner: Pruner) -> dict[str, object]:
    """A method's name and settings, for a report."""
    return {"method": pruner.name} | settings(pruner)


@dataclass(frozen=True)
class Run:
    """`pipeline.ask` of one video and one model, with progress bars."""

    video: str | Path
    llm: VideoLLM
    frames: int | None
    max_new_tokens: int
    record: bool
    positions: str | None = None
    chunk_frames: int | None = None
    newlines: str = "kept"

    def __call__(self, question: str, pruner: Pruner, words: str = "", **changes: Any) -> Answer:
        """Ask; `words` go before the bars' own, `changes` are keywords of `pipeline.ask` for this one time."""
        from tangovlm.pipeline import ask as pipeline

        options = {
            "frames": self.frames,
            "max_new_tokens": self.max_new_tokens,
            "record": self.record,
            "positions": self.positions,
            "chunk_frames": self.chunk_frames,
            "newlines": self.newlines,
        } | changes
        with stage_bars(words) as progress:
            return pipeline.ask(self.video, question, model=self.llm, method=pruner, progress=progress, **options)

    def warm_up(self, question: str, pruner: Pruner) -> None:
        """Ask without counting: the first run of a process pays for what later ones find ready."""
        self(question, pruner, "warming up: ", max_new_tokens=1, record=False)


def with_sinks(pruner: Any, file: Path) -> Any:
    """A method, or a pair of them, that masks the sinks of a file.

    Raises
    ------
    InputError: a method that masks none.
    MethodError: see `tangovlm.Tango`.
    """
    if isinstance(pruner, Pair):
        return replace(pruner, before=with_sinks(pruner.before, file))
    if not _masks_sinks(pruner):
        able = [name for name, cls in registry.methods().items() if _masks_sinks(cls)]
        raise InputError(f"--sink-tokens does not go with the method {pruner.name}: use {' or '.join(able)}")
    return replace(pruner, sink_tokens=file)


def _masks_sinks(method: Any) -> bool:
    return any(field.name == "sink_tokens" for field in fields(method))


def unpruned(pruner: Pruner) -> Pruner:
    """The same method, keeping every token."""
    return build.method(pruner.name, retention=1.0)


def _compared(run: Run, question: str, pruner: Pruner) -> Exchange:
    run.warm_up(question, pruner)
    everything = run(question, unpruned(pruner), "all tokens: ", record=False)
    return Exchange(question, run(question, pruner, f"{pruner.name}: "), everything)


def _show(exchange: Exchange, as_json: bool) -> None:
    answer, everything = exchange.answer, exchange.unpruned
    if as_json:
        show_json(answer.as_dict() | ({} if everything is None else {"unpruned": everything.as_dict()}))
    elif everything is None:
        show(answer)
        talk(figures_line(answer))
    else:
        table = Table("", *(heading(each) for each in exchange.answers))
        table.add_row("answer", *(Text(plain(each)) for each in exchange.answers))
        for row in figures_rows([each] for each in exchange.answers):
            table.add_row(*row)
        show(table)
