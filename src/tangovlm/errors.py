"""Errors caused by what the user handed in: one line that says what, where, and how to mend it."""


class TangoError(ValueError):
    """Base class. The message is kept on one line, whatever it was built from, so that a CLI can print it as it is."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class InputError(TangoError):
    """Tensors, numbers or text that cannot be worked with: a wrong shape, NaN, an empty question."""


class VideoError(TangoError):
    """A file that is not a readable local video."""


class ModelError(TangoError):
    """A model that is missing, incomplete, or of an architecture no family knows."""


class MethodError(TangoError):
    """An unknown method, or a method with an unknown or invalid hyper-parameter."""
