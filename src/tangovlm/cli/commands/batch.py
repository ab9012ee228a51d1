"""`tangovlm batch`: questions about many clips, from one file of JSON lines into another."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tangovlm.budget import validate_retention
from tangovlm.errors import InputError
from tangovlm.methods import build

from ..checks import check_at_least_one, check_device
from ..options import (
    Adaptive,
    AsJson,
    DeviceName,
    Dtype,
    Frames,
    HeadWeights,
    MaxNewTokens,
    Model,
    OptionalMethod,
    PositionsName,
    SaliencyName,
)
from ..output import log, log_error, only_results, show_json

if TYPE_CHECKING:
    from tangovlm.batch.corpus import Corpus
    from tangovlm.batch.engine import Engine

    Settings: TypeAlias = Mapping[str, object]
    """Of an engine, as every row of the output records them."""
    Start: TypeAlias = Callable[[], Engine]

DEFAULT_METHOD, DEFAULT_RETENTION = "tango", 0.1
ENGINE_GONE = 1
"""Exit status if a server did not come back or an engine died."""
_LINE_SECONDS = 30.0


class EngineName(StrEnum):
    """Library that runs the model."""

    AUTO = "auto"
    VLLM = "vllm"
    TRANSFORMERS = "transformers"


class Media(StrEnum):
    """How videos are sent to a server."""

    BASE64 = "base64"
    PATH = "path"


def batch(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT", help='JSON lines: {"id": ..., "video": path, "question": ...}.', show_default=False
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
    frames: Frames = None,
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
    limit: Annotated[int | None, typer.Option(help="Use only the first rows, this many.", show_default=False)] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Ask the rows that failed again.")] = False,
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
        ("--frames", frames), ("--max-new-tokens", max_new_tokens), ("--limit", limit),
        ("--concurrency", concurrency), ("--workers", workers),
    ):  # fmt: skip
        check_at_least_one(option, count)
    _check_files(source, target)
    chosen = _retention(method, retention, server, adaptive)
    with only_results(), _children_on_stderr():
        from tangovlm.batch.corpus import Corpus, Task

        corpus = Corpus(source, Task("", "", "", chosen, max_new_tokens, str(video_root or "")), limit)
        if server is not None:
            _check_server_only(
                method=method, saliency=saliency, head_weights=head_weights, device=device_name, dtype=dtype, ray=ray,
                extra=extra, adaptive=adaptive, positions=positions,
            )  # fmt: skip
            settings, start = _server(
                server, api_key, model, frames=frames, retention=retention, concurrency=concurrency,
                media=media.value, give_up_s=give_up,
            )  # fmt: skip
        else:
            settings, start = _local(
                engine, workers if ray else None, model=model, method=method or DEFAULT_METHOD, retention=chosen,
                saliency=None if saliency is None else saliency.value, head_weights=head_weights, frames=frames,
                device=check_device(device_name), dtype=None if dtype is None else dtype.value, concurrency=concurrency,
                extra=tuple(extra or ()), adaptive=adaptive, positions=None if positions is None else positions.value,
            )  # fmt: skip
        summary = _answer(corpus, target, retry_failed, settings, start)
    if as_json:
        show_json(summary)


def _check_files(source: Path, target: Path) -> None:
    if not source.is_file():
        raise InputError(f"INPUT {source} is not a file: give JSON lines with a video and a question each")
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
        build.method(method or DEFAULT_METHOD, adaptive=adaptive, retention=retention)
        return retention
    return None if retention is None else validate_retention(retention)


def _check_server_only(**options: object) -> None:
    """Refuse options that the server sets itself."""
    for name, value in options.items():
        if value:
            option = "an option of vLLM" if name == "extra" else f"--{name.replace('_', '-')}"
            raise InputError(f"{option} does not go with --server, which has its own: leave it out")


def _server(url: str, key: str | None, model: str | None, **options: Any) -> tuple[Settings, Start]:
    from tangovlm.batch.server_api import ServerApi
    from tangovlm.batch.server_engine import ServerEngine

    with _engine_errors():
        remote = ServerEngine(ServerApi(url, key), model, notify=log, **options)
    return {"model": remote.model, "method": None, "settings": _present(options, "frames")}, lambda: remote


def _local(name: EngineName, workers: int | None, **options: Any) -> tuple[Settings, Start]:
    from tangovlm.batch import settings as batch_settings
    from tangovlm.batch.ray_engine import RayEngine, check_ray

    settings = batch_settings.Settings(**options)
    kind, reason = batch_settings.choose_engine(settings) if name is EngineName.AUTO else (name.value, "")
    settings = replace(settings, kind=kind)
    batch_settings.check_settings(settings)
    if workers is not None:
        check_ray()

    def start() -> Engine:
        if reason:
            log(f"note: answering with transformers, one clip after another: {reason}")
        if settings.model is None:
            from tangovlm.pipeline.ask import BUILTIN_NOTE

            log(f"note: {BUILTIN_NOTE}")
        return settings.build() if workers is None else RayEngine(settings, workers)

    recorded = _present(options, "frames", "saliency", "head_weights", "positions")
    if settings.adaptive:
        recorded = {**recorded, "adaptive": True}
    return {"model": settings.name, "method": settings.method, "settings": recorded}, start


def _present(options: Mapping[str, Any], *names: str) -> Settings:
    """The options of these names that are not None."""
    return {name: options[name] for name in names if options[name] is not None}


def _answer(corpus: Corpus, target: Path, retry_failed: bool, settings: Settings, start: Start) -> dict[str, object]:
    """Ask the questions that are not answered yet, and return a summary."""
    from tangovlm.batch.output import Output
    from tangovlm.batch.run import plan, run

    with _engine_errors(), Output(target, forget_failed=retry_failed) as output:
        todo = plan(corpus, output, settings)
        if todo.waiting:
            with _bar(todo.rows, todo.rows - todo.waiting) as progress:
                run(corpus, output, start, settings, progress)
        failed = output.failed
        answered = len(output.done) - failed
    again = "; --retry-failed asks these again" if failed else ""
    log(f"{target}: {answered} rows answered, {failed} failed{again}")
    return {"output": str(target), "rows": todo.rows, "asked": todo.waiting, "answered": answered, "failed": failed}


@contextmanager
def _engine_errors() -> Iterator[None]:
    """If an engine dies within the context, end the command with one line and the status `ENGINE_GONE`."""
    from tangovlm.batch.engine import EngineGoneError

    try:
        yield
    except EngineGoneError as error:
        log_error(str(error))
        raise typer.Exit(ENGINE_GONE) from error


@contextmanager
def _children_on_stderr() -> Iterator[None]:
    """Redirect file descriptor 1 to stderr within the context, because processes of an engine write to it directly."""
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


@contextmanager
def _bar(total: int, done: int) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar of rows on stderr; if that is not a terminal, print a line every half minute."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    last = time.monotonic()
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("rows", total=total, completed=done)

        def advance(rows: int, failed: int) -> None:
            nonlocal last
            words = f"rows, {failed} failed" if failed else "rows"
            progress.update(bar, completed=done + rows, description=words)
            if not console.is_terminal and time.monotonic() - last > _LINE_SECONDS:
                last = time.monotonic()
                log(f"{done + rows} of {total} {words}")

        yield advance
