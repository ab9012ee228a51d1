"""Greedy choice of points: each time the one with the largest weighted distance to the nearest chosen one."""

from .pytorch import Choice, choose_farthest

__all__ = ["Choice", "choose_farthest"]
