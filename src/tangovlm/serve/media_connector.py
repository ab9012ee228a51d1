"""How a server reads the media of requests: as vLLM does, but a mistake in a request is reported as such."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import InputError
from . import compatibility, video_loader
from .videos import LOADER, PART

with compatibility.importing_vllm():
    from vllm.multimodal.media.connector import MEDIA_CONNECTOR_REGISTRY, MediaConnector


_MISSPELT = ("start", "end")
_PICTURES = "data:video/jpeg"


def register() -> None:
    """Replace the stock connector; a server that names another one in VLLM_MEDIA_CONNECTOR still uses that.

    The loader of this package is registered too.
    """
    video_loader.register()
    MEDIA_CONNECTOR_REGISTRY.register("http")(TangoMediaConnector)


class TangoMediaConnector(MediaConnector):
    """The stock connector.

    Raises
    ------
    InputError: a file that is missing or must not be read, or data in a URL that is not base64. The error of the stock
        connector becomes an internal error of the server (status 500 instead of 400). Also a part of a video or one of
        its streams in ``media_io_kwargs`` that the loader of the request would ignore.
    """

    def load_from_url(self, url: str, media_io: Any, **kwargs: Any) -> Any:
        """Read one medium."""
        _refuse_parts(url, media_io)
        with _report_mistakes(url):
            return super().load_from_url(url, media_io, **kwargs)

    async def load_from_url_async(self, url: str, media_io: Any, **kwargs: Any) -> Any:
        """Read one medium."""
        _refuse_parts(url, media_io)
        with _report_mistakes(url):
            return await super().load_from_url_async(url, media_io, **kwargs)


def _refuse_parts(url: str, media_io: Any) -> None:
    given = [name for name in (*PART, *_MISSPELT) if name in getattr(media_io, "kwargs", {})]
    if not given:
        return
    if url[: len(_PICTURES)].lower() == _PICTURES:
        raise InputError(f"media_io_kwargs has {given[0]!r}, but the video is a list of pictures: leave it out")
    loader = getattr(media_io, "video_loader", None)
    if loader is None:
        raise InputError(f"media_io_kwargs has {given[0]!r}, but the medium is no video: leave it out")
    if not isinstance(loader, video_loader.TangoVideoLoader):
        raise InputError(
            f"media_io_kwargs has {given[0]!r}, but loaders of vLLM sample the whole of the stream that they choose: "
            f"give it with 'video_backend': {LOADER!r}, which takes {', '.join(PART)}"
        )


@contextmanager
def _report_mistakes(url: str) -> Iterator[None]:
    """Turn the errors of a bad URL into `InputError`."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        # A host that does not answer is not the client's mistake.
        if url.lower().startswith("http"):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"cannot read the medium {url[:80]!r}: {reason}") from error
