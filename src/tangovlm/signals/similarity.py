"""Cosine similarity of tokens and frames, in float32 (float64 for float64 input)."""

import torch
from torch import Tensor

_EPSILON = 1e-12


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type that similarities, distances and means are computed in: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def normalize(vectors: Tensor) -> Tensor:
    """``(..., D)`` divided by its Euclidean norm over D, in `compute_dtype`; a zero vector stays zero."""
    vectors = vectors.to(compute_dtype(vectors.dtype))
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / norms.clamp_min(_EPSILON)


def adjacent_similarity(unit: Tensor) -> Tensor:
    """Cosines ``(T - 1, ...)`` between each frame of unit vectors ``(T, ..., D)`` and the next one."""
    cosines: Tensor = torch.linalg.vecdot(unit[:-1], unit[1:])
    return cosines
