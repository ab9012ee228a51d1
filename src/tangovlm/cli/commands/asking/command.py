"""`tangovlm ask`: one question about one video."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

import tangovlm
from tangovlm.budget import validate_retention
from tangovlm.errors import InputError
from tangovlm.report import RETENTIONS, Exchange

from ...asking import (
    Run,
    load,
    local_video,
    log_foreign,
    settings_of,
    show_dry_runs,
    with_sinks,
    write_page,
)
from ...checks import (
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
from ...options import (
    Adaptive,
    AsJson,
    ChunkFrames,
    DeviceName,
    DtypeName,
    Encode,
    EncodeName,
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
from ...output import log, log_notes, only_results
from .exchanges import answers, compared, conversation, show_exchange
from .streamed import Streaming, answer_stream


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
    encode: EncodeName = Encode.ALL,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            help="For long videos: read it frame by frame (--fps, by default 1), and hold at most so many tokens.",
            show_default=False,
        ),
    ] = None,
    half_life: Annotated[
        float | None,
        typer.Option(
            help="With --max-tokens: seconds after which a part of the video counts half as much.", show_default="none"
        ),
    ] = None,
    follow: Annotated[
        float | None,
        typer.Option(
            help="Read a file that is still written, until it has not grown for so many seconds.", show_default=False
        ),
    ] = None,
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
    if follow is None:
        check_found(video)
    sampling = sampling_of(frames, fps, max_frames, start, end, stream, seek)
    pruner = tangovlm.method(method, adaptive=adaptive, retention=retention)
    if sink_tokens is not None:
        pruner = with_sinks(pruner, sink_tokens)
    device = check_device(device_name)
    loading: dict[str, Any] = {"device": device, "dtype": dtype, "max_frame_pixels": max_frame_pixels}
    asking: dict[str, Any] = {"positions": None if positions is None else positions.value, "newlines": newlines.value}
    streaming = Streaming.of(max_tokens, half_life, follow)
    if streaming is not None:
        streaming.check(
            video,
            {
                "--compare": compare,
                "--report": report is not None,
                "--dry-run": dry_run,
                "--frames": frames is not None,
                "--max-frames": max_frames is not None,
                "--seek": seek is not None,
                "--positions": positions is not None,
                "--newlines counted": newlines is Newlines.COUNTED,
            },
            sampling,
        )
    with local_video(video, chat=chat) as file:
        if follow is None:
            check_video(file, sampling)
        if dry_run:
            show_dry_runs(file, questions, pruner, model, as_json, frames=sampling, **loading, **asking)
            return
        from tangovlm.session.records import Recording

        stdout = sys.stdout
        with only_results():
            llm = load(model, saliency=saliency, head_weights=head_weights, **loading)
            if streaming is not None:
                options: dict[str, Any] = {
                    "sampling": sampling,
                    "encode": encode.value,
                    "chunk_frames": chunk_frames,
                }
                with redirect_stdout(stdout):
                    answer_stream(streaming, file, llm, pruner, questions, chat, max_new_tokens, as_json, **options)
                return
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
                    for exchange in conversation(run, questions, pruner, printed):
                        exchanges.append(exchange)
                        with redirect_stdout(stdout):
                            show_exchange(exchange, as_json, several=True)
                else:
                    exchanges += (compared if compare else answers)(run, questions, pruner)
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
        show_exchange(exchange, as_json, several=len(exchanges) > 1)
