"""The file format of measured attention sinks, written by `tangovlm inspect sinks` and read for `sink_tokens`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from ...errors import MethodError

FORMAT, VERSION = "tangovlm-sinks", 1
_MEASURE = "measure them with `tangovlm inspect sinks CLIPS... --out FILE.json`"
# Far larger than a list for any grid, so that a file passed by mistake is not read into memory.
_MAX_BYTES = 2**22


class SinkList(tuple[int, ...]):
    """Grid positions ``h * W + w`` on one grid.

    A tuple of the positions, which JSON stores as a list. Two are equal if their positions and grids are.

    Parameters
    ----------
    positions: integers inside the grid.
    grid: (H, W); None if the list applies to any grid.
    """

    grid: tuple[int, int] | None

    def __new__(cls, positions: Iterable[int] = (), grid: tuple[int, int] | None = None) -> Self:
        new = super().__new__(cls, positions)
        new.grid = grid
        return new

    def __getnewargs__(self) -> tuple[tuple[int, ...], tuple[int, int] | None]:
        return tuple(self), self.grid

    def __eq__(self, other: object) -> bool:
        return tuple.__eq__(self, other) is True and self.grid == getattr(other, "grid", None)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((tuple(self), self.grid))

    def __repr__(self) -> str:
        return f"SinkList({tuple(self)}, grid={self.grid})"

    def check_grid(self, height: int, width: int) -> None:
        """Raise `MethodError`, which names both grids, unless the list applies to this one."""
        if self.grid not in (None, (height, width)):
            raise MethodError(
                f"sink_tokens are positions on a grid of {_describe(self.grid)}, but the video has {height} x {width}: "
                "measure sinks with the same model and clips of the same shape, or leave sink_tokens out"
            )


def read_sinks(source: str | Path | Mapping[str, Any]) -> SinkList:
    """Read the sinks in a file written by `tangovlm inspect sinks`.

    Parameters
    ----------
    source: its path, or its content as returned by `json.load`.

    Raises
    ------
    MethodError: no such file, not JSON, or not a list of measured sinks.
    """
    if isinstance(source, Mapping):
        return _from_document(source, "sink_tokens")
    return _from_document(_parse(Path(source)), f"sink_tokens: {source}")


def _parse(path: Path) -> object:
    if not path.is_file():
        raise MethodError(f"sink_tokens: there is no file {path}: pass the path of one, or {_MEASURE}")
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise MethodError(f"sink_tokens: {path} is too large for a list of sinks: {_MEASURE}")
        parsed: object = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MethodError(f"sink_tokens: {path} cannot be read ({error.strerror}): check its permissions") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MethodError(f"sink_tokens: {path} is not JSON: {_MEASURE}") from error
    return parsed


def _from_document(document: object, where: str) -> SinkList:
    if not isinstance(document, Mapping) or document.get("format") != FORMAT:
        raise MethodError(f'{where} has no measured sinks (no "format": "{FORMAT}"): {_MEASURE}')
    if document.get("version") != VERSION:
        raise MethodError(f"{where} has version {document.get('version')!r} of the format, not {VERSION}: {_MEASURE}")
    grid, positions = document.get("grid"), document.get("positions")
    if not isinstance(grid, list | tuple) or len(grid) != 2 or not all(_is_count(side, 1) for side in grid):
        raise MethodError(f"{where} has the grid {grid!r}, which is not [rows, columns]: {_MEASURE}")
    tokens = grid[0] * grid[1]
    if not isinstance(positions, list | tuple) or not all(_is_count(place, 0, tokens) for place in positions):
        raise MethodError(f"{where} has positions that are not integers from 0 to {tokens - 1}: {_MEASURE}")
    if len(set(positions)) < len(positions):
        raise MethodError(f"{where} has a position twice: {_MEASURE}")
    return SinkList(positions, (grid[0], grid[1]))


def _is_count(value: object, low: int, end: float = float("inf")) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value < end


def _describe(grid: tuple[int, int] | None) -> str:
    return "any size" if grid is None else f"{grid[0]} x {grid[1]}"
