"""Video files into frames with their times: `decode` is all that most stages need."""

from .decode import Frames, decode, duration_s

__all__ = ["Frames", "decode", "duration_s"]
