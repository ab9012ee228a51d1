"""How a server reads the media of requests: as vLLM does, but what a request got wrong is told as its mistake."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import InputError
from . import compat

with compat.internals():
    from vllm.multimodal.media.connector import MEDIA_CONNECTOR_REGISTRY, MediaConnector


def register() -> None:
    """Take the place of the stock connector, unless a server was told (by VLLM_MEDIA_CONNECTOR) to take another."""
    MEDIA_CONNECTOR_REGISTRY.register("http")(Connector)


class Connector(MediaConnector):
    """The stock connector.

    Raises
    ------
    InputError: a file that may not be read or is not there, or data in a URL that is not base64. The stock one raises
        what becomes an internal error of the server (status 500 instead of 400).
    """

    def load_from_url(self, url: str, *args: Any, **kwargs: Any) -> Any:
        """Read one medium."""
        with _mistakes_of(url):
            return super().load_from_url(url, *args, **kwargs)

    async def load_from_url_async(self, url: str, *args: Any, **kwargs: Any) -> Any:
        """Read one medium."""
        with _mistakes_of(url):
            return await super().load_from_url_async(url, *args, **kwargs)


@contextmanager
def _mistakes_of(url: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, OSError) as error:
        # A host that does not answer is nobody's mistake.
        if url.lower().startswith("http"):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"cannot read the medium {url[:80]!r}: {reason}") from error
