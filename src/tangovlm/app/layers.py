"""The layers that can be shown over the frames of a clip."""

NAMES = {"kept": "Kept tokens", "clusters": "Clusters", "saliency": "Saliency", "none": "Frames only"}
"""The layers, and their names on the page."""
KEPT_COLOUR = (94, 234, 212)
"""Outline of a kept token where clusters are not shown."""
