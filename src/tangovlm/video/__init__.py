"""Video files into frames with their times: `decode` is all that the other stages need."""

from .decode import Frames, decode

__all__ = ["Frames", "decode"]
