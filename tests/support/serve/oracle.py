"""Expected answers of LLaVA-OneVision: features are selected and inserted into the prompt here, without hooks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import tangovlm
from tangovlm.inputs import timestamps
from tangovlm.models.common.layout import Clip
from tests.support.serve.engine import Reply, Request


@dataclass(frozen=True)
class Oracle:
    """The stock `transformers` model, a method, and its retention where a request names none."""

    llm: Any
    method: str = "tango"
    retention: float = 0.1

    @classmethod
    def of(cls, folder: Path, method: str = "tango", **options: Any) -> "Oracle":
        return cls(tangovlm.load(folder, device="cpu", **options), method)

    @torch.no_grad()
    def reply(self, request: Request) -> Reply:
        """Greedy tokens and their log-probabilities."""
        embeds = self.embeds(request)[None]
        stop: dict[str, Any] = {"eos_token_id": None} if request.ignore_eos else {}
        told = self.llm.model.generate(
            inputs_embeds=embeds,
            attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
            max_new_tokens=request.max_tokens,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            **stop,
        )
        ids = told.sequences[0].tolist()
        logprobs = [float(row[0].log_softmax(-1)[token]) for row, token in zip(told.logits, ids, strict=True)]
        return Reply(ids, logprobs, embeds.shape[1], 0)

    def embeds(self, request: Request) -> Tensor:
        """The whole prompt ``(Q, D)``, as the text model gets it."""
        model, tokenizer = self.llm.model, self.llm.tokenizer
        ids = tokenizer(request.prompt, add_special_tokens=False)["input_ids"]
        videos = iter([self.video(frames, metadata, request) for frames, metadata in request.videos])
        images = iter([self.image(image) for image in request.images])
        table = model.get_input_embeddings().weight
        media = {model.config.video_token_index: videos, model.config.image_token_index: images}
        return torch.cat([next(media[token]) if token in media else table[token][None] for token in ids])

    def video(self, frames: np.ndarray, metadata: Any, request: Request) -> Tensor:
        """Embeddings of a video in the prompt, its newline included."""
        family, model = self.llm.family, self.llm.model
        retention = self.retention if request.retention is None else float(request.retention)
        pruner = tangovlm.method(self.method, retention=retention)
        pixels = family.prompt.pixels(torch.from_numpy(frames).permute(0, 3, 1, 2), self.llm.config)
        grid = family.layout.grid(len(frames))
        kind = family.signals.resolve_saliency(getattr(pruner, "signal", None))
        with family.signals.observe(family.signals.readable(pruner), kind) as signals:
            output = model.model.get_video_features(pixels, return_dict=True)
        (rows,) = family.layout.features(output, [Clip(grid, 0)])
        seconds = None if metadata is None else timestamps.from_metadata(metadata)[0]
        selection = pruner(family.video_tokens(rows, Clip(grid, 0), signals, seconds))
        return torch.cat([selection.features, model.model.image_newline[None]])

    def image(self, image: np.ndarray) -> Tensor:
        """Embeddings of an image in the prompt, from the stock processor and the stock model."""
        from transformers import AutoImageProcessor

        inputs = AutoImageProcessor.from_pretrained(self.llm.name)(images=[image], return_tensors="pt")
        output = self.llm.model.model.get_image_features(**inputs, return_dict=True)
        features: Tensor = output.pooler_output[0]
        return features
