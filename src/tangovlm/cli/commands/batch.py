"""`tangovlm batch`: questions about many clips, from a table in a file into a file of JSON lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

import tangovlm
from tangovlm.budget import validate_retention
from tangovlm.errors import InputError

from ..checks import check_at_least_one, check_device, sampling_of
from ..options import (
    Adaptive,
    AsJson,
    DeviceName,
    Dtype,
    Encode,
    EncodeName,
    End,
    Fps,
    Frames,
    HeadWeights,
    MaxFrames,
    MaxNewTokens,
    Model,
    OptionalMethod,
    PositionsName,
    SaliencyName,
    SeekName,
    Start,
    Stream,
)
from ..output import CommandFailedError, children_on_stderr, log, only_results, show_json
from ..row_progress import log_failures, row_bar

if TYPE_CHECKING:
    from tangovlm.batch.corpus import Corpus
    from tangovlm.batch.engine import Engine

    Settings: TypeAlias = Mapping[str, object]
    """Of an engine, as every row of the output records them."""
    StartEngine: TypeAlias = Callable[[], Engine]

DEFAULT_METHOD, DEFAULT_RETENTION = "tango", 0.1
INCOMPLETE = 1
"""Exit status if rows failed; also if a server did not come back, or an engine died."""


class EngineName(StrEnum):
    """Library that runs the model."""

    AUTO = "auto"
    VLLM = "vllm"
    TRANSFORMERS = "transformers"


class TableFormat(StrEnum):
    """Format of the input."""

    JSONL = "jsonl"
    CSV = "csv"


class Media(StrEnum):
    """How videos are sent to a server."""

    BASE64 = "base64"
    PATH = "path"


def batch(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT",
            help='JSON lines, {"id": ..., "video": path, "question": ...}, or CSV with columns of these names.',
            show_default=False,
        ),
    ],
    target: Annotated[
        Path,
        typer.Argument(
            metavar="OUTPUT", help="JSON lines. Questions that it already answers are skipped.", show_default=False
        ),
    ],
    extra: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- VLLM-OPTIONS", help="Options of vLLM's engine.", show_default=False),
    ] = None,
    model: Model = None,
    method: OptionalMethod = None,
    retention: Annotated[
        float | None,
        typer.Option(
            help="Fraction of the visual tokens to keep, in (0, 1], for input rows without a retention of their own.",
            show_default="0.1; with --server, the server's",
        ),
    ] = None,
    adaptive: Adaptive = False,
    positions: PositionsName = None,
    encode: EncodeName = Encode.ALL,
    frames: Frames = None,
    fps: Fps = None,
    max_frames: MaxFrames = None,
    start: Start = None,
    end: End = None,
    stream: Stream = None,
    seek: SeekName = None,
    max_new_tokens: MaxNewTokens = 64,
    saliency: SaliencyName = None,
    head_weights: HeadWeights = None,
    device_name: DeviceName = None,
    dtype: Annotated[
        Dtype | None, typer.Option(help="Number format of the weights.", show_default="the engine's choice")
    ] = None,
    video_root: Annotated[
        Path | None,
        typer.Option(help="Directory that relative video paths start from.", show_default="the working directory"),
    ] = None,
    table_format: Annotated[
        TableFormat | None,
        typer.Option("--format", help="Format of INPUT.", show_default="csv if it ends in .csv, else jsonl"),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Use only the first rows, this many.", show_default=False)] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Ask the rows that failed again.")] = False,
    allow_failures: Annotated[
        bool, typer.Option("--allow-failures", help="End with status 0 even if rows failed, not 1.")
    ] = False,
    engine: Annotated[
        EngineName,
        typer.Option(help="Library that runs the model; auto is vLLM if it is installed and supports the model."),
    ] = EngineName.AUTO,
    concurrency: Annotated[
        int, typer.Option(help="Number of clips that vLLM processes, or requests that a server gets, at the same time.")
    ] = 16,
    ray: Annotated[bool, typer.Option("--ray", help="Distribute engines over machines with Ray Data.")] = False,
    workers: Annotated[int, typer.Option(help="Number of engines, with --ray.")] = 1,
    server: Annotated[
        str | None,
        typer.Option(
            help="URL of a running server with the OpenAI API, to use instead of a local engine.", show_default=False
        ),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(help="API key of the server.", envvar="OPENAI_API_KEY", show_default=False)
    ] = None,
    media: Annotated[
        Media, typer.Option(help="How videos are sent to the server: within the request, or as paths that it can read.")
    ] = Media.BASE64,
    give_up: Annotated[float, typer.Option(help="Seconds to wait for a server that does not respond.")] = 600.0,
    as_json: AsJson = False,
) -> None:
    """Answer questions about many videos. If interrupted, run the same command again to continue."""
    for option, count in (
        ("--max-new-tokens", max_new_tokens), ("--limit", limit), ("--concurrency", concurrency),
        ("--workers", workers),
    ):  # fmt: skip
        check_at_least_one(option, count)
    _check_files(source, target)
    if retention is not None:
        validate_retention(retention)
    sampling = sampling_of(frames, fps, max_frames, start, end, stream, seek)
    chosen = _retention(method, retention, server, adaptive)
    with only_results(), children_on_stderr():
        from tangovlm.batch.corpus import Corpus, Task
        from tangovlm.batch.table import format_of

        form = format_of(source) if table_format is None else table_format.value
        defaults = Task("", "", "", chosen, max_new_tokens, str(video_root or ""), sampling=sampling)
        corpus = Corpus(source, defaults, limit, form)
        if (first := corpus.check()) is not None and (own := first.sampling.differences(sampling)):
            log(f"note: rows of {source} choose which frames are taken: {', '.join(own)}")
        if server is not None:
            _check_server_only(
                method=method, saliency=saliency, head_weights=head_weights, device=device_name, dtype=dtype, ray=ray,
                extra=extra, adaptive=adaptive, positions=positions, encode=encode is Encode.CHANGED,
            )  # fmt: skip
            settings, start_engine = _server(
                server, api_key, model, sampling=sampling, retention=retention, concurrency=concurrency,
                media=media.value, give_up_s=give_up,
            )  # fmt: skip
        else:
            settings, start_engine = _local(
                engine, workers if ray else None, model=model, method=method or DEFAULT_METHOD, retention=chosen,
                saliency=None if saliency is None else saliency.value, head_weights=head_weights,
                device=check_device(device_name), dtype=None if dtype is None else dtype.value, concurrency=concurrency,
                extra=tuple(extra or ()), adaptive=adaptive, positions=None if positions is None else positions.value,
                encode=encode.value,
            )  # fmt: skip
        summary = _answer(corpus, target, retry_failed, settings, start_engine)
    if as_json:
        show_json(summary)
    if summary["failed"] and not allow_failures:
        raise typer.Exit(INCOMPLETE)


def _check_files(source: Path, target: Path) -> None:
    if not source.is_file():
        raise InputError(
            f"INPUT {source} is not a file: give JSON lines or CSV with a video and a question in each row"
        )
    if target.exists() and target.samefile(source):
        raise InputError(f"OUTPUT {target} is INPUT itself: give another name")


def _retention(method: str | None, retention: float | None, server: str | None, adaptive: bool) -> float | None:
    """The retention for rows without one; None for the server's own.

    Raises
    ------
    TangoError: a retention outside (0, 1], an unknown method, or one with a fixed number of tokens that is to adapt.
    """
    if server is None:
        retention = DEFAULT_RETENTION if retention is None else retention
        tangovlm.method(method or DEFAULT_METHOD, adaptive=adaptive, retention=retention)
        return retention
    return None if retention is None else validate_retention(retention)


def _check_server_only(**options: object) -> None:
    """Refuse options that the server sets itself."""
    for name in (name for name, value in options.items() if value):
        option = "an option of vLLM" if name == "extra" else f"--{name.replace('_', '-')}"
        raise InputError(f"{option} does not go with --server, which has its own: leave it out")


def _server(url: str, key: str | None, model: str | None, **options: Any) -> tuple[Settings, StartEngine]:
    from tangovlm.batch.server_api import ServerApi
    from tangovlm.batch.server_engine import ServerEngine

    with _engine_errors():
        remote = ServerEngine(ServerApi(url, key), model, notify=log, **options)
    return {"model": remote.model, "method": None, "settings": {}}, lambda: remote


def _local(name: EngineName, workers: int | None, **options: Any) -> tuple[Settings, StartEngine]:
    from tangovlm.batch import settings as batch_settings
    from tangovlm.batch.ray_engine import RayEngine, check_ray
    from tangovlm.pipeline.load import embedded_folder

    settings = batch_settings.Settings(**options)
    kind, reason = batch_settings.choose_engine(settings) if name is EngineName.AUTO else (name.value, "")
    settings = replace(settings, kind=kind)
    batch_settings.check_settings(settings)
    if workers is not None:
        check_ray()

    def start() -> Engine:
        if reason:
            log(f"note: answering with transformers, one clip after another: {reason}")
        if embedded_folder(settings.model) is not None:
            from tangovlm.pipeline.embedded import BUILTIN_NOTE

            log(f"note: {BUILTIN_NOTE}")
        return settings.build() if workers is None else RayEngine(settings, workers)

    usual = {"saliency": None, "head_weights": None, "positions": None, "adaptive": False, "encode": Encode.ALL}
    recorded = {name: options[name] for name, value in usual.items() if options[name] != value}
    return {"model": settings.name, "method": settings.method, "settings": recorded}, start


def _answer(
    corpus: Corpus, target: Path, retry_failed: bool, settings: Settings, start: StartEngine
) -> dict[str, object]:
    """Ask the questions that are not answered yet, and return a summary."""
    from tangovlm.batch.output import Output
    from tangovlm.batch.run import plan, run

    with _engine_errors(), Output(target, forget_failed=retry_failed) as output:
        todo = plan(corpus, output, settings)
        for note in todo.notes:
            log(f"note: {note}")
        if todo.waiting:
            with row_bar(todo.rows, todo.rows - todo.waiting) as progress:
                run(corpus, output, start, settings, progress)
        failed = output.failed
        answered = len(output.done) - failed
    again = "; --retry-failed asks these again" if failed else ""
    log(f"{target}: {answered} rows answered, {failed} failed{again}")
    log_failures(output.first_failures, failed)
    counts = {"rows": todo.rows, "asked": todo.waiting, "answered": answered, "failed": failed}
    return {"output": str(target), **counts, "notes": list(todo.notes)}


@contextmanager
def _engine_errors() -> Iterator[None]:
    """If an engine dies within the context, end the command with one line and the status `INCOMPLETE`, see `run`."""
    from tangovlm.batch.engine import EngineGoneError

    try:
        yield
    except EngineGoneError as error:
        raise CommandFailedError(str(error)) from error
