"""How a server reads the media of requests: as vLLM does, but a mistake in a request is reported as such."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import InputError
from . import compatibility

with compatibility.importing_vllm():
    from vllm.multimodal.media.connector import MEDIA_CONNECTOR_REGISTRY, MediaConnector


_PARTS = ("start", "end", "start_s", "end_s", "stream")
"""Options that `tangovlm ask` has, and that vLLM's loaders would ignore."""


def register() -> None:
    """Replace the stock connector; a server that names another one in VLLM_MEDIA_CONNECTOR still uses that."""
    MEDIA_CONNECTOR_REGISTRY.register("http")(TangoMediaConnector)


class TangoMediaConnector(MediaConnector):
    """The stock connector.

    Raises
    ------
    InputError: a file that is missing or must not be read, or data in a URL that is not base64. The error of the stock
        connector becomes an internal error of the server (status 500 instead of 400). Also a part of a video or one of
        its streams in ``media_io_kwargs``, which the stock connector ignores.
    """

    def load_from_url(self, url: str, media_io: Any, **kwargs: Any) -> Any:
        """Read one medium."""
        _refuse_parts(media_io)
        with _report_mistakes(url):
            return super().load_from_url(url, media_io, **kwargs)

    async def load_from_url_async(self, url: str, media_io: Any, **kwargs: Any) -> Any:
        """Read one medium."""
        _refuse_parts(media_io)
        with _report_mistakes(url):
            return await super().load_from_url_async(url, media_io, **kwargs)


def _refuse_parts(media_io: Any) -> None:
    options = getattr(media_io, "kwargs", {})
    for name in _PARTS:
        if name in options:
            raise InputError(
                f"media_io_kwargs has {name!r}, but vLLM samples the whole of the stream that it chooses: leave it "
                "out, and send only that part of the video"
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
