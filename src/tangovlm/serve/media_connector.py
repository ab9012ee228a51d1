"""How a server reads the media of requests: as vLLM does, but a mistake in a request is reported as such."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import InputError
from . import compatibility

with compatibility.importing_vllm():
    from vllm.multimodal.media.connector import MEDIA_CONNECTOR_REGISTRY, MediaConnector


def register() -> None:
    """Replace the stock connector; a server that names another one in VLLM_MEDIA_CONNECTOR still uses that."""
    MEDIA_CONNECTOR_REGISTRY.register("http")(TangoMediaConnector)


class TangoMediaConnector(MediaConnector):
    """The stock connector.

    Raises
    ------
    InputError: a file that is missing or must not be read, or data in a URL that is not base64. The error of the stock
        connector becomes an internal error of the server (status 500 instead of 400).
    """

    def load_from_url(self, url: str, *args: Any, **kwargs: Any) -> Any:
        """Read one medium."""
        with _report_mistakes(url):
            return super().load_from_url(url, *args, **kwargs)

    async def load_from_url_async(self, url: str, *args: Any, **kwargs: Any) -> Any:
        """Read one medium."""
        with _report_mistakes(url):
            return await super().load_from_url_async(url, *args, **kwargs)


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
