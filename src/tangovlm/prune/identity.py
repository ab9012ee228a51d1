"""The selection that keeps every token, which a retention of 1 asks for."""

import torch

from ..tokens import Selection, VideoTokens


def keep_all(tokens: VideoTokens, segments: tuple[int, ...]) -> Selection:
    """Every token in a slot of its own, its features unchanged."""
    indices = torch.arange(tokens.count, device=tokens.features.device)
    grid = (tokens.frames, tokens.height, tokens.width)
    return Selection(indices, tokens.features.flatten(0, 2).clone(), indices.view(grid).clone(), segments)
