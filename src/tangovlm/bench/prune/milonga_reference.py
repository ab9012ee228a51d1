"""A plain implementation of Milonga: its baseline in `tangovlm bench prune`.

Sketches are a dense matrix product, runs are found token by token, the choice is made one token at a time with the
distances of all tokens to the one chosen last, and clusters are averaged one after another. The constants of the sketch
and the number of tokens come from the library, so that both keep the same tokens.
"""

import torch
from torch import Tensor

from tangovlm.budget import count
from tangovlm.kernels.token_sketch.pytorch import channel_signs, to_grid
from tangovlm.tokens import VideoTokens

from .reference import Reduced

STAY, EMPHASIS, ALIKE = 0.35, 0.5, 0.9
ANCHOR_WEIGHT = 0.6
SKETCH = 128
_WEIGHT_STEPS = 1024

_COPIES = 2  # float64 copies of the features during the sketch


def milonga_reference_bytes(tokens: int, dim: int, _: int) -> int:
    """Memory that `milonga_reference` needs beyond its input."""
    return _COPIES * 8 * tokens * dim


@torch.no_grad()
def milonga_reference(tokens: VideoTokens, retention: float = 0.1) -> Reduced:
    """Prune one video with saliency, with the default parameters and without masking sinks."""
    assert tokens.saliency is not None
    features = tokens.features.flatten(0, 2)
    points = _sketch(features)
    keep = count(retention, len(points))
    mean = (points.sum(0) / len(points)).round()
    spread = 2 * float(points.square().sum() / len(points) - mean.square().sum())
    saliency = tokens.saliency.double().flatten().cpu()
    weights = (_WEIGHT_STEPS * (saliency / saliency.mean()) ** EMPHASIS).round().clamp_min(1).to(points.device)
    run = _runs(points, weights, tokens.frames, spread, keep)
    firsts = run.unique()
    members = [(run == first).nonzero().flatten() for first in firsts]
    where = torch.stack([points[each].mean(0).round() for each in members])
    score = torch.stack([weights[each].mean() for each in members]) / _WEIGHT_STEPS
    chosen, nearest = _choose(where, score, to_grid(mean[None])[0].double(), ALIKE * spread, keep)
    kept, values = [], []
    for number in sorted(chosen):
        merged = torch.cat([members[other] for other, near in enumerate(nearest) if near == number])
        own, every = features[members[number]].float().mean(0), features[merged].float().mean(0)
        kept.append(int(firsts[number]))
        values.append(ANCHOR_WEIGHT * own + (1 - ANCHOR_WEIGHT) * every)
    return Reduced(torch.tensor(kept), torch.stack(values), (tokens.frames,))


def _sketch(features: Tensor) -> Tensor:
    """``(N, m)`` float64 of integers."""
    values, dim = features.double(), features.shape[1]
    if dim > SKETCH:
        signs = values.new_zeros(dim, SKETCH)
        channel = torch.arange(dim, device=values.device)
        signs[channel, channel % SKETCH] = channel_signs(dim, values.device).double()
        values = values @ signs
    return to_grid(values).double()


def _runs(points: Tensor, weights: Tensor, frames: int, spread: float, keep: int) -> Tensor:
    """``(N,)``, the first token of each token's run."""
    length = len(points) // frames
    run = list(range(len(points)))
    for i in range(length, len(points)):
        first = run[i - length]
        if float((points[i] - points[first]).square().sum()) <= STAY * spread:
            run[i] = first
    missing = keep - len(set(run))
    if missing > 0:
        inside = [i for i, first in enumerate(run) if i != first]
        apart = {i: float(weights[i] * (points[i] - points[run[i]]).square().sum()) for i in inside}
        for i in sorted(inside, key=lambda i: (-apart[i], i))[:missing]:
            run[i] = i
    return torch.tensor(run, device=points.device)


def _choose(where: Tensor, score: Tensor, center: Tensor, alike: float, keep: int) -> tuple[list[int], list[int]]:
    """The chosen runs in order, and for each run the chosen one that it is merged into, or -1."""
    near = torch.full_like(score, torch.inf)
    nearest = [-1] * len(where)
    bound = (where - center).square().sum(1)
    free = torch.ones_like(score, dtype=torch.bool)
    chosen: list[int] = []
    for _ in range(min(keep, len(where))):
        best = int(torch.where(free, score * torch.minimum(bound, near), -1).argmax())
        chosen.append(best)
        free[best] = False
        apart = (where - where[best]).square().sum(1)
        for i in (apart < near).nonzero().flatten().tolist():
            nearest[i] = best
        near = torch.minimum(near, apart)
    merged = (near <= alike).tolist()
    nearest = [best if join else -1 for best, join in zip(nearest, merged, strict=True)]
    for best in chosen:
        nearest[best] = best
    return chosen, nearest
