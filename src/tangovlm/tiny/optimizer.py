"""Muon for hidden matrices, with a float32 implementation that is fast on CPUs, and the learning-rate schedule.

`torch.optim.Muon` orthogonalises in bfloat16, which CPUs without bfloat16 units run a hundred times slower than
float32; this one computes in the precision of the parameters and batches all matrices of one shape.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Quintic coefficients of the Newton-Schulz iteration of Muon (Jordan et al., 2024)."""

WARM_RATE = 0.5
"""Factor on the learning rates if training starts from the weights of an earlier run."""


class Muon(torch.optim.Optimizer):
    """SGD with momentum whose update of a matrix is orthogonalised: its singular values are close to one."""

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.01) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
            for param in group["params"]:
                if param.grad is None:
                    continue
                buffer = self.state[param].setdefault("momentum", torch.zeros_like(param))
                buffer.lerp_(param.grad, 1 - group["momentum"])
                update = param.grad.lerp(buffer, group["momentum"])
                by_shape.setdefault(param.shape, []).append((param, update))
            for shape, pairs in by_shape.items():
                scale = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                directions = _orthogonalise(torch.stack([update for _, update in pairs]))
                for (param, _), direction in zip(pairs, directions, strict=True):
                    param.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-scale)


def _orthogonalise(matrices: Tensor) -> Tensor:
    """Move the singular values of a batch of matrices (N, A, B) towards one."""
    a, b, c = _NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def warm_up_then_decay(step: int, steps: int, warm_up: int, decay: float) -> float:
    """Factor on the learning rate: linear warm-up, constant, then linear decay over the last fraction `decay`."""
    remaining = (steps - step) / steps
    return min(1.0, (step + 1) / warm_up) * min(1.0, remaining / decay + 0.02)
