"""`tangovlm ask`: one question about one video."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tangovlm
from tangovlm.budget import validate_retention
from tangovlm.errors import InputError, TangoError
from tangovlm.report import RETENTIONS, Exchange, heading

from ..asking import (
    Run,
    load,
    local_video,
    log_follow_up,
    log_foreign,
    settings_of,
    show_dry_runs,
    unpruned,
    with_sinks,
    write_page,
)
from ..checks import (
    check_at_least_one,
    check_device,
    check_dry_run,
    check_found,
    check_model,
    check_report,
    check_report_retentions,
    check_video,
    sampling_of,
)
from ..options import (
    Adaptive,
    AsJson,
    ChunkFrames,
    DeviceName,
    DtypeName,
    Encode,
    End,
    Fps,
    Frames,
    HeadWeights,
    MaxFramePixels,
    MaxFrames,
    MaxNewTokens,
    Method,
    Model,
    Newlines,
    PositionsName,
    Retention,
    SaliencyName,
    SeekName,
    Start,
    Stream,
)
from ..output import columns, log, log_error, log_notes, only_results, plain, show, show_json
from ..tables import figures_line, figures_rows
from ..typed import is_terminal, typed

if TYPE_CHECKING:
    from tangovlm.tokens import Pruner


def ask(
    video: Annotated[
        str, typer.Argument(help="Video file, folder of pictures, or - for standard input.", show_default=False)
    ],
    question: Annotated[str | None, typer.Argument(help="Question about the video.", show_default=False)] = None,
    more: Annotated[
        list[str] | None,
        typer.Option(
            "--question", "-q", help="A further question; the video is encoded once. Repeatable.", show_default=False
        ),
    ] = None,
    chat: Annotated[
        bool,
        typer.Option(
            "--chat",
            help="A conversation: earlier questions and answers are part of the prompt. Standard input is read "
            "for questions, one per line, after those of the command line.",
        ),
    ] = False,
    model: Model = None,
    method: Method = "tango",
    retention: Retention = 0.1,
    adaptive: Adaptive = False,
    frames: Frames = None,
    fps: Fps = None,
    max_frames: MaxFrames = None,
    start: Start = None,
    end: End = None,
    stream: Stream = None,
    seek: SeekName = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Also answer with all tokens, and show both answers.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="HTML file to write that shows which tokens were kept.", show_default=False)
    ] = None,
    report_retentions: Annotated[
        str | None,
        typer.Option(
            help="Retentions, separated by commas, whose kept tokens the report also shows; `none` for no others.",
            show_default=",".join(map(str, RETENTIONS)),
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print frames, token counts, FLOPs and bytes of the KV cache in place of an answer, without weights.",
        ),
    ] = False,
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
    encode: Annotated[
        Encode,
        typer.Option(
            help="Run the vision encoder on all frames, or only on those that differ from the last one that it ran on."
        ),
    ] = Encode.ALL,
    max_new_tokens: MaxNewTokens = 64,
) -> None:
    """Answer questions about a video with a fraction of its visual tokens."""
    from tangovlm.inputs.prompting import check_question

    questions = [*([] if question is None else [question]), *(more or ())]
    if not questions and not chat:
        raise InputError("no question is given: write it after the video, or give --question or --chat")
    for each in questions:
        check_question(each)
    if chat and compare:
        raise InputError("--chat and --compare do not go together: leave one of them out")
    check_at_least_one("--chunk-frames", chunk_frames)
    check_at_least_one("--max-frame-pixels", max_frame_pixels)
    check_at_least_one("--max-new-tokens", max_new_tokens)
    validate_retention(retention)
    retentions = check_report_retentions(report_retentions, report)
    if dry_run:
        check_dry_run(
            questions,
            {"--report": report is not None, "--compare": compare, "--encode changed": encode is Encode.CHANGED},
        )
    if report is not None:
        check_report(report, video)
    check_model(model)
    check_found(video)
    sampling = sampling_of(frames, fps, max_frames, start, end, stream, seek)
    pruner = tangovlm.method(method, adaptive=adaptive, retention=retention)
    if sink_tokens is not None:
        pruner = with_sinks(pruner, sink_tokens)
    device = check_device(device_name)
    loading: dict[str, Any] = {"device": device, "dtype": dtype, "max_frame_pixels": max_frame_pixels}
    asking: dict[str, Any] = {"positions": None if positions is None else positions.value, "newlines": newlines.value}
    with local_video(video, chat=chat) as file:
        check_video(file, sampling)
        if dry_run:
            show_dry_runs(file, questions, pruner, model, as_json, frames=sampling, **loading, **asking)
            return
        from tangovlm.session.records import Recording

        stdout = sys.stdout
        with only_results():
            llm = load(model, saliency=saliency, head_weights=head_weights, **loading)
            printed = log_foreign(llm, file)
            record = False if report is None else Recording(retentions)
            run = Run(
                file,
                llm,
                sampling,
                max_new_tokens,
                record=record,
                chunk_frames=chunk_frames,
                encode_frames=encode.value,
                **asking,
            )
            exchanges: list[Exchange] = []
            try:
                if chat:
                    for exchange in _chat(run, questions, pruner, printed):
                        exchanges.append(exchange)
                        with redirect_stdout(stdout):
                            _show(exchange, as_json, several=True)
                else:
                    exchanges += (_compare if compare else _answer)(run, questions, pruner)
            finally:
                # Also of a conversation that was interrupted.
                if report is not None and exchanges:
                    settings = {
                        "video": video,
                        **sampling.as_dict(),
                        "model": llm.name,
                        "saliency": llm.family.signals.resolve_saliency(getattr(pruner, "signal", None)),
                    } | settings_of(pruner)
                    write_page(report, exchanges, Path(video).name, settings)
                log_notes((answer for exchange in exchanges for answer in exchange.answers), printed)
                if report is not None and exchanges:
                    log(f"report: {report}")
    for exchange in () if chat else exchanges:
        _show(exchange, as_json, several=len(exchanges) > 1)


def _answer(run: Run, questions: Sequence[str], pruner: Pruner) -> list[Exchange]:
    if len(questions) == 1:
        return [Exchange(questions[0], run(questions[0], pruner))]
    clip = run.encode(pruner, questions)
    return [Exchange(*pair) for pair in zip(questions, run.ask_all_about(clip, questions), strict=True)]


def _compare(run: Run, questions: Sequence[str], pruner: Pruner) -> list[Exchange]:
    """Answers with all tokens and with the method's, from one encoding."""
    all_tokens = unpruned(pruner)
    clip = run.encode(pruner, questions, [all_tokens], warm_up=True)
    everything = clip.with_method(all_tokens)
    exchanges = []
    for number, question in enumerate(questions, start=1):
        prefix = f"question {number} of {len(questions)}: " if len(questions) > 1 else ""
        whole = run.ask_about(everything, question, f"{prefix}all tokens: ")
        exchanges.append(Exchange(question, run.ask_about(clip, question, f"{prefix}{pruner.name}: "), whole))
    return exchanges


def _chat(run: Run, questions: Sequence[str], pruner: Pruner, printed: set[str]) -> Iterator[Exchange]:
    """Ask the questions of the command line, then those of standard input; says which of them cannot be answered.

    Parameters
    ----------
    printed: notes that were printed, to which those printed here are added.
    """
    clip = run.encode(pruner, questions)
    exchanges: list[Exchange] = []
    failed = 0
    for question in chain(questions, typed()):
        history = [(exchange.question, str(exchange.answer)) for exchange in exchanges]
        if len(history) == 1:
            printed |= log_follow_up(run.llm)
        try:
            exchanges.append(Exchange(question, run.ask_about(clip, question, history=history)))
        except TangoError as error:
            failed += 1
            log_error(str(error))
            continue
        yield exchanges[-1]
    if failed and not is_terminal():
        raise InputError(f"{failed} of {failed + len(exchanges)} questions could not be answered")
    if not exchanges and not is_terminal():
        raise InputError("no question is given: write it after the video, or pipe questions to the command")


def _show(exchange: Exchange, as_json: bool, *, several: bool) -> None:
    answer, everything = exchange.answer, exchange.unpruned
    if as_json:
        whole = {} if everything is None else {"unpruned": everything.as_dict()}
        show_json({"question": exchange.question} | answer.as_dict() | whole)
    elif everything is None:
        if several:
            log(f"question: {exchange.question}")
        show(answer)
        log(figures_line(answer))
    else:
        from rich.text import Text

        table = columns(exchange.question if several else "", *(heading(each) for each in exchange.answers))
        table.add_row("answer", *(Text(plain(each)) for each in exchange.answers))
        for row in figures_rows([each] for each in exchange.answers):
            table.add_row(*row)
        show(table)
