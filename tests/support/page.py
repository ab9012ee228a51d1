"""Reads the kept tokens from the data of an HTML page; `tangovlm.report.page.kept_sets` describes its format."""

import base64
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt


def read_bits(text: str, grid: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """The data of a cut, bool of the shape `grid`."""
    return _bits(zlib.decompress(base64.b64decode(text)), grid)


def read_set(data: dict[str, Any], number: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Sources, int64, and kept tokens, bool, of one of the sets, both `(T, H, W)`."""
    grid, raw = tuple(data["grid"]), zlib.decompress(base64.b64decode(data["sets"][number]["data"]))
    count = int(np.prod(grid))
    sources = np.full(count, -1, dtype=np.int64)
    for plane in range(data["planes"]):
        sources += np.frombuffer(raw[plane * count : (plane + 1) * count], np.uint8).astype(np.int64) << (8 * plane)
    return sources.reshape(grid), _bits(raw[data["planes"] * count :], grid)


def _bits(raw: bytes, grid: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    count = int(np.prod(grid))
    return np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little")[:count].astype(bool).reshape(grid)
