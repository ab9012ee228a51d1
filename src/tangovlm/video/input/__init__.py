"""What is read: which frames of a video, and videos that are no video file."""

import os
from collections.abc import Sequence
from typing import IO, TypeAlias

VideoSource: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | IO[bytes]
"""A file, a folder of pictures, a list of pictures, or a binary file object."""
