"""Videos and images have the same encoder, but names of their own in stock code."""

from typing import NamedTuple

from ..transformers_compat import Arg


class Medium(NamedTuple):
    """Names of one kind of visual input.

    Parameters
    ----------
    feature_method: see `Family.feature_method`.
    pixels, grids: arguments of the model and of this method.
    token: field of the config with the id of the placeholder.
    """

    feature_method: str
    pixels: str
    grids: str
    token: str


VIDEOS = Medium("get_video_features", Arg.VIDEO_PIXELS, Arg.VIDEO_GRIDS, "video_token_id")
IMAGES = Medium("get_image_features", Arg.PIXELS, Arg.IMAGE_GRIDS, "image_token_id")
