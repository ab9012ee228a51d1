"""The server's own addresses: uploads, the clip of a page, and what it saves."""

from __future__ import annotations

from pathlib import Path
from secrets import token_urlsafe

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse

import tangovlm
from tangovlm.errors import VideoError

from ..clips import Clip
from ..engine import Engine
from ..results import Run
from ..views.comparison import as_csv
from .handlers import ANSWERS, CLOSED, COMPARISON

_NAME = 120
"""Longest name of a file that is shown, in characters."""
_NO_STORE = {"cache-control": "no-store"}


def add_routes(app: FastAPI, engine: Engine, folder: Path) -> None:
    """Add the addresses to an application.

    Parameters
    ----------
    folder: for uploads, which nobody else can read.
    """

    @app.post("/clip/{token}")
    async def upload(token: str, request: Request, name: str = "clip") -> Response:
        session = engine.sessions.by_token(token)
        if session is None:
            return _error(404, CLOSED)
        shown = shown_name(name)
        path = folder / f"{token_urlsafe(12)}{Path(shown).suffix[:8]}"
        try:
            engine.limits.check_size(int(request.headers.get("content-length") or 0), shown)
            size = 0
            with path.open("wb") as file:
                async for chunk in request.stream():
                    size += len(chunk)
                    engine.limits.check_size(size, shown)
                    await run_in_threadpool(file.write, chunk)
            await run_in_threadpool(engine.wait_for_packages)
            clip = await run_in_threadpool(Clip.read, path, shown, engine.limits)
        except BaseException as error:
            # Also if the upload is interrupted.
            path.unlink(missing_ok=True)
            if isinstance(error, VideoError):
                engine.log(str(error))
                return _error(422, str(error))
            if isinstance(error, OSError):
                return _error(507, f"{shown}: cannot be stored ({error.strerror})")
            raise
        engine.sessions.offer(session, clip)
        return JSONResponse({"name": shown})

    @app.get("/video/{token}")
    def video(token: str) -> Response:
        session = engine.sessions.by_token(token)
        clip = None if session is None else session.clip
        if clip is None or not clip.path.is_file():
            return _error(404, "there is no such clip")
        return FileResponse(clip.path, headers=_NO_STORE)

    @app.get("/run/{token}.html")
    def saved_run(token: str) -> Response:
        run = _run_of(engine, token, ANSWERS)
        page = None if run is None else report(run)
        if page is None:
            return _error(404, "there is no complete answer to save")
        return Response(page.encode(errors="replace"), media_type="text/html", headers=_attachment("tangovlm-run.html"))

    @app.get("/comparison/{token}.csv")
    def saved_comparison(token: str) -> Response:
        run = _run_of(engine, token, COMPARISON)
        if run is None:
            return _error(404, "there is no comparison to save")
        return Response(
            as_csv(run).encode(errors="replace"), media_type="text/csv", headers=_attachment("comparison.csv")
        )


def report(run: Run) -> str | None:
    """The HTML page of a run, see `tangovlm.report`; None if it has no complete answers."""
    from tangovlm.report import html_page

    exchange, result = run.exchange, run.pruned[0].result
    if exchange is None or result is None:
        return None
    answer = result.answer
    settings = {
        "video": run.clip.name,
        "frames": run.frames,
        "model": answer.model,
        "method": answer.method,
        "retention": answer.retention,
        "tangovlm": tangovlm.__version__,
    }
    return html_page(result.drawn, [exchange], title=run.clip.name, settings=settings)


def shown_name(name: str) -> str:
    """The name of an uploaded file as it is shown: its last part, printable, not too long."""
    last = name.replace("\\", "/").rpartition("/")[2]
    printable = "".join(each for each in last if each.isprintable()).strip()
    if len(printable) > _NAME:
        return f"{printable[: _NAME // 2]}...{printable[-_NAME // 2 :]}"
    return printable or "clip"


def _run_of(engine: Engine, token: str, part: str) -> Run | None:
    session = engine.sessions.by_token(token)
    return None if session is None else session.runs.get(part)


def _attachment(name: str) -> dict[str, str]:
    return {"content-disposition": f'attachment; filename="{name}"', **_NO_STORE}


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status_code=status, headers=_NO_STORE)
