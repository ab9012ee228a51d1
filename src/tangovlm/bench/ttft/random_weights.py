"""Random weights, a random pooling head of SigLIP, and random clips, in place of downloads."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from tangovlm.evaluate.shapes import Tower

_SCENES, _MOVING = 4, 0.3


def preserve_variance(model: nn.Module) -> None:
    """Initialize weights with variance 1 / fan_in, so that activations keep their scale through the layers."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d)):
            module.weight.normal_(std=module.weight[0].numel() ** -0.5)


def pooling_head(tower: Tower) -> dict[str, Tensor]:
    """Random weights of SigLIP's last norm and pooling head, under their names in a checkpoint."""
    generator = torch.Generator().manual_seed(0)
    hidden, inner = tower.hidden, tower.intermediate
    shapes = {
        "head.probe": (1, 1, hidden),
        "head.attention.in_proj_weight": (3 * hidden, hidden),
        "head.attention.in_proj_bias": (3 * hidden,),
        "head.attention.out_proj.weight": (hidden, hidden),
        "head.attention.out_proj.bias": (hidden,),
        "head.mlp.fc1.weight": (inner, hidden),
        "head.mlp.fc1.bias": (inner,),
        "head.mlp.fc2.weight": (hidden, inner),
        "head.mlp.fc2.bias": (hidden,),
    }
    weights = {name: torch.randn(shape, generator=generator) * shape[-1] ** -0.5 for name, shape in shapes.items()}
    norms = {f"{name}.weight": torch.ones(hidden) for name in ("post_layernorm", "head.layernorm")}
    return weights | norms | {name.replace("weight", "bias"): torch.zeros(hidden) for name in norms}


def clips(batch: int, frames: int, side: int) -> Tensor:
    """Clips ``(B, T, 3, side, side)`` uint8 of `_SCENES` scenes in which a fraction `_MOVING` of the cells changes."""
    generator = torch.Generator().manual_seed(0)
    cells = side // 14
    videos = torch.empty(batch, frames, 3, side, side, dtype=torch.uint8)
    for video in videos:
        for number, frame in enumerate(video):
            if number in {round(frames * scene / _SCENES) for scene in range(_SCENES)}:
                still = torch.rand(3, cells, cells, generator=generator)
                moving = torch.rand(cells, cells, generator=generator) < _MOVING
            coarse = torch.where(moving, torch.rand(3, cells, cells, generator=generator), still)
            frame.copy_(functional.interpolate(255 * coarse[None], size=(side, side))[0])
    return videos
