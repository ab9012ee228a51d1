"""Stage 2 of the recipe: encode clips with the trained tower and cache their features on disk."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .loop import Progress
from .model import encode, pick_device, project_and_pool, to_pixels
from .recipe import Recipe
from .synthetic.render import render
from .synthetic.world import Clip
from .tower import load_tower

_SHARD = 40
_FRAMES_A_RUN = 16
_SEEDS = {"train": 11, "held-out": 12}


@dataclass(frozen=True)
class EncodedClips:
    """Clips with their encoded frames; T is the number of frames of a clip, one per moment.

    Parameters
    ----------
    recipe: that the clips belong to.
    clips: one for each entry of the lists below.
    features: float16 (T, 64, 192), the output of `model.project_and_pool` for every frame.
    owners: int8 (T, 64), as returned by `render.render`.
    """

    recipe: Recipe
    clips: list[Clip]
    features: list[Tensor]
    owners: list[Tensor]


def draw_clip(part: str, index: int, recipe: Recipe) -> Clip:
    """Clip `index` of the fixed sequence "train" or "held-out"; the lengths alternate."""
    short = index >= recipe.short_from
    train = recipe.short_lengths if short else recipe.train_lengths
    lengths = train if part == "train" else recipe.world.lengths
    return recipe.world.draw_clip(np.random.default_rng([_SEEDS[part], index]), lengths[index % len(lengths)], None)


@torch.no_grad()
def cache_clips(run: Path, part: str, count: int, recipe: Recipe) -> None:
    """Write the missing shards of clips [0, count)."""
    device = pick_device()
    model = load_tower(run).to(device).eval()
    folder = run / f"clips-{part}"
    folder.mkdir(exist_ok=True)
    with Progress(f"cache {part}", count) as progress:
        for start, path in _shards(folder, count):
            if not path.exists():
                shard: dict[str, Tensor] = {}
                for index in range(start, min(start + _SHARD, count)):
                    clip = draw_clip(part, index, recipe)
                    frames, owners = render(clip, clip.times(int(clip.length)))
                    pixels = to_pixels(torch.from_numpy(frames).to(device))
                    pooled = torch.cat([project_and_pool(model, encode(model, p)) for p in pixels.split(_FRAMES_A_RUN)])
                    shard[f"features-{index}"] = pooled.half().cpu()
                    shard[f"owners-{index}"] = torch.from_numpy(owners).flatten(1)
                partial = path.with_suffix(".partial")
                save_file(shard, partial)
                partial.replace(path)
            progress.step({}, min(_SHARD, count - start))


def load_clips(run: Path, part: str, count: int, recipe: Recipe) -> EncodedClips:
    """Load clips [0, count) of a part."""
    shards: dict[str, Tensor] = {}
    for _, path in _shards(run / f"clips-{part}", count):
        shards |= load_file(path)
    clips = [draw_clip(part, i, recipe) for i in range(count)]
    return EncodedClips(
        recipe, clips, *([shards[f"{name}-{i}"] for i in range(count)] for name in ("features", "owners"))
    )


def _shards(folder: Path, count: int) -> Iterator[tuple[int, Path]]:
    """Index of the first clip, and file, of every shard."""
    for start in range(0, count, _SHARD):
        yield start, folder / f"{start:06d}.safetensors"
