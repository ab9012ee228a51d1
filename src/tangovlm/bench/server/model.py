"""The checkpoint and the clips of the load test: random weights, small enough for two CPU cores."""

import base64
import io
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import torch
import transformers
from safetensors.torch import load_file, save_file

from tangovlm.evaluate.shapes import Text, Tower
from tangovlm.pipeline.load import BUILTIN

from ..flops import encoder_flops, model_flops
from ..ttft.models import LlavaOnevision
from ..ttft.random_weights import clips, pooling_head

_FRAMES_A_SECOND = 8
_WEIGHTS = "model.safetensors"
_OWN_FILES = ("config.json", "generation_config.json", _WEIGHTS)
"""Files that differ from the embedded model, whose tokenizer, template and processors are used."""
_TEXTS = {"load": Text(384, 1024, 5, 6, 2, 491, tied=True)}
_TOWERS = {"load": Tower(128, 512, 3, 2)}


class Served(LlavaOnevision):
    """A LLaVA-OneVision with 8 x 8 patches and 4 x 4 tokens per frame.

    On an unpruned clip, the language model does about four times the work of the tower, as in the published 7B model.
    """

    name = "llava-onevision"
    frame_side = 112
    texts = _TEXTS
    towers = _TOWERS

    def config(self) -> Any:
        """See `Host.config`: with the embedded model's special tokens."""
        config = super().config()
        embedded = transformers.AutoConfig.from_pretrained(BUILTIN)
        for name in ("image_token_index", "video_token_index", "image_grid_pinpoints", "vision_aspect_ratio"):
            setattr(config, name, getattr(embedded, name))
        return config

    @classmethod
    def visual_tokens(cls, frames: int) -> int:
        """See `Host.visual_tokens`."""
        return 4 * 4 * frames


def flops(frames: int) -> tuple[int, int]:
    """FLOPs of an unpruned clip in the language model (visual tokens only) and in the tower."""
    host = Served("load", torch.device("meta"), torch.float32)
    whole, projector = encoder_flops(host, frames)
    return model_flops(host, host.visual_tokens(frames)), whole - projector


def write_checkpoint(folder: Path) -> None:
    """Write the model as a stock float32 checkpoint with a pooling head."""
    host = Served("load", torch.device("cpu"), torch.float32)
    host.model.config.vision_config.vision_use_head = True
    host.model.save_pretrained(folder)
    head = {name: weight for name, weight in pooling_head(host.tower_shape).items() if name.startswith("head.")}
    weights = load_file(folder / _WEIGHTS) | {f"vision_tower.{name}": weight for name, weight in head.items()}
    save_file(weights, folder / _WEIGHTS, metadata={"format": "pt"})
    for file in BUILTIN.iterdir():
        if file.name not in _OWN_FILES:
            shutil.copyfile(file, folder / file.name)


def data_urls(number: int, frames: int) -> list[str]:
    """Different H.264 clips as ``data:`` URLs."""
    films = clips(number, frames, Served.frame_side)
    return [f"data:video/mp4;base64,{base64.b64encode(_encoded(film)).decode()}" for film in films]


def _encoded(film: torch.Tensor) -> bytes:
    """Frames ``(T, 3, side, side)`` uint8 as an MP4 file."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(_FRAMES_A_SECOND), options={"preset": "ultrafast"})
        stream.height, stream.width = film.shape[2:]
        stream.pix_fmt = "yuv420p"
        for frame in film.permute(0, 2, 3, 1).contiguous().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()
