"""Decoding video files into frames with timestamps; most stages only need `decode`."""

from .decode import Frames, decode, duration_s

__all__ = ["Frames", "decode", "duration_s"]
