"""Expected answers of Qwen-VL: `tangovlm.attach` on the transformers model, with inputs of the stock processor.

In transformers the text behind a video of Qwen2.5-VL starts behind its longer side, in vLLM (and the authors' code)
behind its highest position, which is further where a video is long. The oracle can count as vLLM does.
"""

from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import tangovlm
from tests.support.serve.engine import Reply, Request


@dataclass(frozen=True)
class Oracle:
    """The stock model and its processor, a method, and its retention where a request names none."""

    model: Any
    processor: Any
    method: str = "tango"
    retention: float = 0.1
    known: dict[int, Reply] = field(default_factory=dict)
    """Replies so far, by the identity of the request."""

    @classmethod
    def of(cls, folder: Path, *, counted: bool = False, **options: Any) -> "Oracle":
        """With positions `counted` as vLLM does, or the stock ones."""
        from transformers import AutoModelForImageTextToText, AutoProcessor

        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
        if counted:
            model.model.get_rope_index = partial(rope_index, model.config)
        return cls(model, AutoProcessor.from_pretrained(folder), **options)

    def reply(self, request: Request) -> Reply:
        """Greedy tokens and their log-probabilities."""
        if id(request) not in self.known:
            self.known[id(request)] = self.said(request)
        return self.known[id(request)]

    def said(self, request: Request) -> Reply:
        """As `reply`, anew."""
        inputs, metadata = self.inputs(request)
        retention = self.retention if request.retention is None else float(request.retention)
        pruner = tangovlm.method(self.method, retention=retention)
        stop: dict[str, Any] = {"eos_token_id": None} if request.ignore_eos else {}
        told = {"video_metadata": metadata} if metadata else {}
        with tangovlm.attach(self.model, pruner) as session:
            said = self.model.generate(
                **inputs,
                **told,
                **stop,
                max_new_tokens=request.max_tokens,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
            )
        length = inputs["input_ids"].shape[1]
        ids = said.sequences[0, length:].tolist()
        logprobs = [float(row[0].log_softmax(-1)[token]) for row, token in zip(said.logits, ids, strict=True)]
        dropped = sum(video.tokens_before - video.tokens_after for video in session.report.videos)
        return Reply(ids, logprobs, length - dropped, 0)

    def inputs(self, request: Request) -> tuple[dict[str, Any], list[Any]]:
        """Inputs of the model, and metadata of the frames that it gets."""
        from transformers.video_utils import VideoMetadata

        media: dict[str, Any] = {"images": [Image.fromarray(each) for each in request.images] or None}
        if request.videos:
            given = [dict(metadata or {}) for _, metadata in request.videos]
            sampled = {fields.pop("do_sample_frames", False) for fields in given}
            media |= {"videos": [frames for frames, _ in request.videos], "do_sample_frames": sampled == {True}}
            media["video_metadata"] = [VideoMetadata(**fields) for fields in given]
        inputs = self.processor(text=[request.prompt], return_tensors="pt", return_metadata=True, **media)
        metadata = inputs.pop("video_metadata", [])
        return dict(inputs), metadata


def rope_index(
    config: Any,
    input_ids: Tensor,
    mm_token_type_ids: Tensor,
    image_grid_thw: Tensor | None = None,
    video_grid_thw: Tensor | None = None,
    second_per_grid_ts: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Positions ``(3, 1, Q)`` of one prompt of Qwen2.5-VL, and the delta for generated tokens."""
    vision = config.vision_config
    images = iter([] if image_grid_thw is None else image_grid_thw.tolist())
    videos = iter([] if video_grid_thw is None else video_grid_thw.tolist())
    intervals = iter([] if second_per_grid_ts is None else second_per_grid_ts)
    found: list[tuple[int, int, int]] = []
    start = 0
    for kind, run in groupby(mm_token_type_ids[0].tolist()):
        if kind == 0:
            found += [(start + place,) * 3 for place, _ in enumerate(run)]
        else:
            steps, height, width = next(images if kind == 1 else videos)
            step = 1.0 if kind == 1 else float(next(intervals)) * vision.tokens_per_second
            merge = vision.spatial_merge_size
            for t in range(steps):
                for row in range(height // merge):
                    found += [(start + int(t * step), start + row, start + each) for each in range(width // merge)]
        start = max(map(max, found)) + 1
    assert len(found) == input_ids.shape[1]
    return torch.tensor(found).T[:, None], torch.tensor([[start - len(found)]])
