"""`tangovlm ask`: one question about one video."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from tangovlm.inputs.prompting import check_question
from tangovlm.methods import build
from tangovlm.report import Exchange, heading

from ..asking import Run, load, settings_of, unpruned, with_sinks, write_page
from ..checks import check_at_least_one, check_device, check_report, check_video
from ..options import (
    Adaptive,
    AsJson,
    ChunkFrames,
    DeviceName,
    DtypeName,
    Frames,
    HeadWeights,
    MaxFramePixels,
    MaxNewTokens,
    Method,
    Model,
    Newlines,
    PositionsName,
    Retention,
    SaliencyName,
)
from ..output import log, log_notes, only_results, plain, show, show_json
from ..tables import figures_line, figures_rows

if TYPE_CHECKING:
    from tangovlm.tokens import Pruner


def ask(
    video: Annotated[str, typer.Argument(help="Video file.", show_default=False)],
    question: Annotated[str, typer.Argument(help="Question about the video.", show_default=False)],
    model: Model = None,
    method: Method = "tango",
    retention: Retention = 0.1,
    adaptive: Adaptive = False,
    frames: Frames = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Also answer with all tokens, and show both answers.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="HTML file to write that shows which tokens were kept.", show_default=False)
    ] = None,
    as_json: AsJson = False,
    device_name: DeviceName = None,
    dtype: DtypeName = None,
    head_weights: HeadWeights = None,
    saliency: SaliencyName = None,
    sink_tokens: Annotated[
        Path | None,
        typer.Option(
            help="File written by `tangovlm inspect sinks`: grid positions whose saliency is ignored.",
            show_default="the known sinks of the model",
        ),
    ] = None,
    positions: PositionsName = None,
    chunk_frames: ChunkFrames = None,
    max_frame_pixels: MaxFramePixels = None,
    newlines: Annotated[
        Newlines,
        typer.Option(
            help="Models with newline tokens between visual tokens (LLaVA-Video): keep newlines in addition to the "
            "retention, or count them within it."
        ),
    ] = Newlines.KEPT,
    max_new_tokens: MaxNewTokens = 64,
) -> None:
    """Answer a question about a video with a fraction of its visual tokens."""
    check_question(question)
    check_at_least_one("--frames", frames)
    check_at_least_one("--chunk-frames", chunk_frames)
    check_at_least_one("--max-frame-pixels", max_frame_pixels)
    check_at_least_one("--max-new-tokens", max_new_tokens)
    pruner = build.method(method, adaptive=adaptive, retention=retention)
    if sink_tokens is not None:
        pruner = with_sinks(pruner, sink_tokens)
    check_video(video)
    if report is not None:
        check_report(report, video)
    with only_results():
        llm = load(
            model,
            device=check_device(device_name),
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
        exchange = _compare(run, question, pruner) if compare else Exchange(question, run(question, pruner))
        if report is not None:
            settings = {
                "video": video,
                "model": llm.name,
                "saliency": llm.family.signals.resolve_saliency(getattr(pruner, "signal", None)),
            } | settings_of(pruner)
            write_page(report, [exchange], Path(video).name, settings)
    log_notes(exchange.answers)
    if report is not None:
        log(f"report: {report}")
    _show(exchange, as_json)


def _compare(run: Run, question: str, pruner: Pruner) -> Exchange:
    run.warm_up(question, pruner)
    everything = run(question, unpruned(pruner), "all tokens: ", record=False)
    return Exchange(question, run(question, pruner, f"{pruner.name}: "), everything)


def _show(exchange: Exchange, as_json: bool) -> None:
    answer, everything = exchange.answer, exchange.unpruned
    if as_json:
        show_json(answer.as_dict() | ({} if everything is None else {"unpruned": everything.as_dict()}))
    elif everything is None:
        show(answer)
        log(figures_line(answer))
    else:
        table = Table("", *(heading(each) for each in exchange.answers))
        table.add_row("answer", *(Text(plain(each)) for each in exchange.answers))
        for row in figures_rows([each] for each in exchange.answers):
            table.add_row(*row)
        show(table)
