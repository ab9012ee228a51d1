"""Decoding video files into frames with timestamps."""

from .decode import decode, duration_s
from .frames import Frames
from .input.sampling import FrameSampling

__all__ = ["FrameSampling", "Frames", "decode", "duration_s"]
