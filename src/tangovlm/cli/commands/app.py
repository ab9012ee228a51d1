"""`tangovlm app`: a web page that asks a model about videos and compares methods."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from ..catalog import saved
from ..checks import check_device, check_model
from ..options import DeviceName, DtypeName, HeadWeights, MaxFramePixels, Model, SaliencyName
from ..output import log, log_error, only_results

if TYPE_CHECKING:
    from tangovlm.pipeline import VideoLLM

USER_ERROR = 2
PORT, HOST = 7860, "127.0.0.1"


def app(
    port: Annotated[int, typer.Option(help="Port of the page; 0 for any free one.")] = PORT,
    host: Annotated[
        str, typer.Option(help="Address to listen on: 127.0.0.1 for this machine only, 0.0.0.0 for every network.")
    ] = HOST,
    model: Model = None,
    device_name: DeviceName = None,
    dtype: DtypeName = None,
    saliency: SaliencyName = None,
    head_weights: HeadWeights = None,
    max_frame_pixels: MaxFramePixels = None,
    max_megabytes: Annotated[float, typer.Option(help="Largest file that can be uploaded, in 10^6 bytes.")] = 200,
    max_minutes: Annotated[float, typer.Option(help="Longest clip.")] = 10,
    max_megapixels: Annotated[float, typer.Option(help="Largest frames of a clip, in 10^6 pixels; 4K has 8.3.")] = 9,
    max_frames: Annotated[int, typer.Option(help="Most frames that can be taken from a clip.")] = 64,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer that can be asked for, in tokens.")] = 256,
) -> None:
    """Serve a web page that asks about videos with all visual tokens and with a few, and compares methods."""
    from tangovlm.app.web.server import address, check_gradio, listen, serve

    check_gradio()
    check_model(model)
    device = check_device(device_name)
    with listen(host, port) as listening, ExitStack() as stack:
        from tangovlm.app.limits import Limits

        limits = Limits(max_megabytes, max_minutes, max_megapixels, max_frames, max_new_tokens)

        def load_model() -> VideoLLM:
            from ..asking import load

            # It ends with the server.
            stack.enter_context(only_results())
            return load(
                model,
                device=device,
                dtype=dtype,
                saliency=saliency,
                head_weights=head_weights,
                max_frame_pixels=max_frame_pixels,
            )

        loaded = serve(
            listening,
            load_model,
            [card.name for card in saved().methods],
            limits=limits,
            world=2 if model == "tangovlm-tiny-2" else 1,
            name=model or "tangovlm-tiny",
            log=log_error,
            on_start=lambda: log(f"{address(listening)} (Ctrl-C ends the server)"),
        )
    if not loaded:
        # The line about it was printed when it happened.
        raise typer.Exit(USER_ERROR)
