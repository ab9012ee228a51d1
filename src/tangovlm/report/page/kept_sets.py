"""The kept tokens as data of the page's script: compressed, in a number of bytes that many frames do not exceed.

What the script reads is one JSON object:

    grid        [T, H, W]
    times       [T] seconds from the start of the video
    planes      bytes per source
    colours     RGB of the first clusters, see `palette.cluster_colours`
    sets        a kept set for each retention, ascending:
                  label, answered, kept (number of slots), segments, clustered, data
    cuts        what remains after each cut inside the language model, for the set of the answer:
                  layer, added, data
    layers      number of layers of the language model, 0 without cuts

`data` is base64 of a zlib stream. That of a set holds the sources plus 1, T * H * W bytes per plane with the lowest
first, then one bit per token, lowest bit first, 1 for kept; with `clustered` false, all sources but -1 are 0. That of a
cut holds one bit per token, 1 for those that are left.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..colours import OKABE_ITO
from ..scenes import Ints, KeptSet, Scene

MAX_BYTES = 250_000
"""Length of the data of the other retentions with their clusters; if it would be more, their clusters are left out."""


def token_data(scene: Scene, labels: Sequence[str], layers: int) -> str:
    """The JSON object, without characters that end a script element.

    Parameters
    ----------
    scene: with kept tokens.
    labels: of the retentions of `scene.sets`.
    layers: of the language model; 0 if unknown.
    """
    sets = scene.sets
    planes = 1 + (max(each.slots for each in sets) > 0xFF) + (max(each.slots for each in sets) > 0xFFFF)
    packed = [_packed(each, planes, clustered=True) for each in sets]
    others = sum(len(text) for text, each in zip(packed, sets, strict=True) if not each.answered)
    clustered = [each.answered or others <= MAX_BYTES for each in sets]
    if not all(clustered):
        packed = [
            text if whole else _packed(each, planes, clustered=False)
            for text, each, whole in zip(packed, sets, clustered, strict=True)
        ]
    data: dict[str, Any] = {
        "grid": list(sets[0].sources.shape),
        "times": list(scene.times_s),
        "planes": planes,
        "colours": list(OKABE_ITO.values()),
        "sets": [
            {
                "label": label,
                "answered": each.answered,
                "kept": each.slots,
                "segments": list(each.segments),
                "clustered": whole,
                "data": text,
            }
            for label, each, whole, text in zip(labels, sets, clustered, packed, strict=True)
        ],
        "cuts": [
            {"layer": cut.layer, "added": cut.added, "data": _compressed(_bits(cut.present))} for cut in scene.cuts
        ],
        "layers": layers,
    }
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def _packed(kept_set: KeptSet, planes: int, *, clustered: bool) -> str:
    sources = kept_set.sources if clustered else np.minimum(kept_set.sources, 0)
    return _compressed(_planes(sources, planes) + _bits(kept_set.kept))


def _planes(sources: Ints, planes: int) -> bytes:
    values = sources.ravel() + 1
    return b"".join(((values >> (8 * plane)) & 0xFF).astype(np.uint8).tobytes() for plane in range(planes))


def _bits(flags: npt.NDArray[np.bool_]) -> bytes:
    return np.packbits(flags.ravel(), bitorder="little").tobytes()


def _compressed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 9)).decode()
