"""Cosine similarity of tokens and frames, in float32 (float64 for float64 input)."""

import torch
from torch import Tensor

_EPSILON = 1e-12
# Elements processed at a time: on a CPU 8 MiB in float32, to fit its cache; elsewhere more, for fewer launches.
_CHUNK_ELEMENTS = (1 << 21, 1 << 26)


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype for similarities, distances and means: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def normalize(vectors: Tensor) -> Tensor:
    """``(..., D)`` divided by its Euclidean norm over D, in `compute_dtype`; a zero vector stays zero."""
    vectors = vectors.to(compute_dtype(vectors.dtype))
    return vectors / clamped_norms(vectors)[..., None]


def adjacent_similarity(unit: Tensor) -> Tensor:
    """Cosines ``(T - 1, ...)`` between each frame of unit vectors ``(T, ..., D)`` and the next one."""
    cosines: Tensor = torch.linalg.vecdot(unit[:-1], unit[1:])
    return cosines


def norms_and_cosines(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Norms ``(T, ...)`` of vectors ``(T, ..., D)``, never zero, and cosines ``(T - 1, ...)`` of adjacent frames.

    Both in `compute_dtype`, in one pass over the vectors, which need not be normalized. A few frames are processed at a
    time; no tensor of the size of the vectors is allocated.
    """
    wide = compute_dtype(vectors.dtype)
    # Allocated first: small results between large temporaries would keep the allocator from reusing the latter.
    norms = torch.empty(vectors.shape[:-1], dtype=wide, device=vectors.device)
    cosines = torch.empty_like(norms[1:])
    step = max(1, _CHUNK_ELEMENTS[vectors.device.type != "cpu"] // vectors[0].numel())
    for start in range(0, len(vectors), step):
        frames = vectors[start : start + step + 1].to(wide)
        norms[start : start + step] = clamped_norms(frames[:step])
        cosines[start : start + step] = torch.linalg.vecdot(frames[:-1], frames[1:])
    return norms, cosines.div_(norms[:-1]).div_(norms[1:])


def clamped_norms(vectors: Tensor) -> Tensor:
    """Euclidean norms ``(...)`` over D of vectors ``(..., D)``, in `compute_dtype` and never zero."""
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=-1, dtype=compute_dtype(vectors.dtype))
    return norms.clamp_min_(_EPSILON)
