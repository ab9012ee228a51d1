"""Stage 2 of the recipe: clips seen once through the trained tower, kept on disk for the language stage."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .loop import Progress
from .model import FRAMES, TEXT_WIDTH, encode, pick_device, project_and_pool, to_pixels
from .render import GRID, render
from .tower import load_tower
from .world import Clip, sample_clip

CLIPS = 2400
HELD_OUT_CLIPS = 250
_SHARD = 50
_SEEDS = {"train": 11, "held-out": 12}


@dataclass(frozen=True)
class SeenClips:
    """Clips with what the tower makes of them.

    clips: the clips, one per row below.
    features: float16 (N, 16, 64, 192), `model.project_and_pool` of every frame.
    owners: int8 (N, 16, 64), as `render.render` gives them.
    """

    clips: list[Clip]
    features: Tensor
    owners: Tensor


def draw_clip(part: str, index: int) -> Clip:
    """Clip `index` of the fixed sequence "train" or "held-out"."""
    return sample_clip(np.random.default_rng([_SEEDS[part], index]))


@torch.no_grad()
def cache_clips(run: Path, part: str, count: int) -> None:
    """Write the shards of clips [0, count) that are missing."""
    device = pick_device()
    model = load_tower(run).to(device).eval()
    folder = run / f"clips-{part}"
    folder.mkdir(exist_ok=True)
    with Progress(f"cache {part}", count) as progress:
        for start, path in _shards(folder, count):
            if not path.exists():
                features, owners = [], []
                for index in range(start, min(start + _SHARD, count)):
                    clip = draw_clip(part, index)
                    frames, owner = render(clip, clip.times(FRAMES))
                    pixels = to_pixels(torch.from_numpy(frames).to(device))
                    features.append(project_and_pool(model, encode(model, pixels)).half().cpu())
                    owners.append(torch.from_numpy(owner).flatten(1))
                partial = path.with_suffix(".partial")
                save_file({"features": torch.stack(features), "owners": torch.stack(owners)}, partial)
                partial.replace(path)
            progress.step({}, min(_SHARD, count - start))


def load_clips(run: Path, part: str, count: int) -> SeenClips:
    """Clips [0, count) of a part."""
    features = torch.empty(count, FRAMES, GRID * GRID, TEXT_WIDTH, dtype=torch.float16)
    owners = torch.empty(count, FRAMES, GRID * GRID, dtype=torch.int8)
    for start, path in _shards(run / f"clips-{part}", count):
        shard, stop = load_file(path), min(start + _SHARD, count)
        features[start:stop] = shard["features"][: stop - start]
        owners[start:stop] = shard["owners"][: stop - start]
    return SeenClips([draw_clip(part, i) for i in range(count)], features, owners)


def _shards(folder: Path, count: int) -> Iterator[tuple[int, Path]]:
    """First clip and file of every shard."""
    for start in range(0, count, _SHARD):
        yield start, folder / f"{start:06d}.safetensors"
