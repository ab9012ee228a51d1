"""Errors caused by the user's input: one line that says what is wrong, where, and how to fix it."""


class TangoError(ValueError):
    """Base class. The message is a single line, so that a command can print it unchanged.

    Examples
    --------
    Every mistake in the arguments of this library can be caught alike, also as a `ValueError`:

    >>> import tangovlm
    >>> try:
    ...     tangovlm.Tango(retention=10)
    ... except tangovlm.TangoError as error:
    ...     print(f"{type(error).__name__}: {error}")
    InputError: retention must be a number in (0, 1], the fraction of tokens to keep, not 10
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class InputError(TangoError):
    """Invalid tensors, numbers or text: a wrong shape, NaN, an empty question."""


class VideoError(TangoError):
    """A file that is not a readable local video."""


class ModelError(TangoError):
    """A model that is missing, incomplete, or of an unsupported architecture."""


class MethodError(TangoError):
    """An unknown method, or a method with an unknown or invalid hyper-parameter."""
