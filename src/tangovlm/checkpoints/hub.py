"""Whether the Hugging Face hub can be reached. Its own library finds out by retrying each file for half a minute."""

_TIMEOUT_S = 2.0


def reachable(timeout_s: float = _TIMEOUT_S) -> bool:
    """Whether the hub answers any request, with whatever status; False in the hub library's offline mode.

    Parameters
    ----------
    timeout_s: seconds to wait for a connection, and for an answer.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined] # it is public, and not in __all__

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=timeout_s)
    except Exception:
        # The library that makes the request differs between releases, and so do its classes of errors.
        return False
    return True
