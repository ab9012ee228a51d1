"""Expected answers of LLaVA-OneVision: features are selected and inserted into the prompt here, without hooks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import tangovlm
from tangovlm.inputs import timestamps
from tangovlm.models.common.layout import Clip, Grid
from tangovlm.tokens import Selection
from tests.support.serve.engine import Reply, Request


@dataclass(frozen=True)
class Oracle:
    """The stock `transformers` model, a method, its retention where a request names none, and its positions."""

    llm: Any
    method: str = "tango"
    retention: float = 0.1
    positions: str = "contiguous"

    @classmethod
    def of(cls, folder: Path, method: str = "tango", positions: str = "contiguous", **options: Any) -> "Oracle":
        return cls(tangovlm.load(folder, device="cpu", **options), method, positions=positions)

    @torch.no_grad()
    def reply(self, request: Request) -> Reply:
        """Greedy tokens and their log-probabilities."""
        rows, places = self.prompt(request)
        embeds = rows[None]
        if self.positions == "original":
            return self._reply(embeds, places, request)
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

    def _reply(self, embeds: Tensor, places: Tensor, request: Request) -> Reply:
        """One forward a token, with the positions ``(Q,)`` of the prompt, after which those of the answer count on."""
        text, head = self.llm.model.get_decoder(), self.llm.model.lm_head
        cache, stop = None, self.llm.model.generation_config.eos_token_id
        ids: list[int] = []
        logprobs: list[float] = []
        while len(ids) < request.max_tokens and not (ids and ids[-1] == stop and not request.ignore_eos):
            output = text(inputs_embeds=embeds, position_ids=places[None], past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            scores = head(output.last_hidden_state[0, -1]).log_softmax(-1)
            ids.append(int(scores.argmax()))
            logprobs.append(float(scores.max()))
            embeds = self.llm.model.get_input_embeddings()(torch.tensor([[ids[-1]]]))
            places = places[-1:] + 1
        return Reply(ids, logprobs, cache.get_seq_length() - len(ids) + 1, 0)

    def prompt(self, request: Request) -> tuple[Tensor, Tensor]:
        """The whole prompt ``(Q, D)``, as the text model gets it, and its positions ``(Q,)`` if it were unpruned."""
        model, tokenizer = self.llm.model, self.llm.tokenizer
        ids = tokenizer(request.prompt, add_special_tokens=False)["input_ids"]
        videos = iter([self.video(frames, metadata, request) for frames, metadata in request.videos])
        images = iter([self.image(image) for image in request.images])
        table = model.get_input_embeddings().weight
        media = {model.config.video_token_index: videos, model.config.image_token_index: images}
        rows, places, first = [], [], 0
        for token in ids:
            part, offsets = next(media[token]) if token in media else (table[token][None], torch.zeros(1).long())
            rows.append(part)
            places.append(first + offsets)
            first += int(offsets[-1]) + 1
        return torch.cat(rows), torch.cat(places)

    def video(self, frames: np.ndarray, metadata: Any, request: Request) -> tuple[Tensor, Tensor]:
        """Embeddings of a video in the prompt, its newline included, and their places in the unpruned video."""
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
        return self.placed(selection, grid)

    def placed(self, selection: Selection, grid: Grid) -> tuple[Tensor, Tensor]:
        """Kept tokens with their newlines, and their places in the unpruned video."""
        places = torch.cat([selection.indices, torch.tensor([grid.tokens])])
        return torch.cat([selection.features, self.llm.model.model.image_newline[None]]), places

    def image(self, image: np.ndarray) -> tuple[Tensor, Tensor]:
        """Embeddings of an image in the prompt, from the stock processor and the stock model, and their places."""
        from transformers import AutoImageProcessor

        inputs = AutoImageProcessor.from_pretrained(self.llm.name)(images=[image], return_tensors="pt")
        output = self.llm.model.model.get_image_features(**inputs, return_dict=True)
        features: Tensor = output.pooler_output[0]
        return features, torch.arange(len(features))


class LlavaVideoOracle(Oracle):
    """With the newline of every row of the grid, whether or not the row keeps a token."""

    def placed(self, selection: Selection, grid: Grid) -> tuple[Tensor, Tensor]:
        tokens = dict(zip(selection.indices.tolist(), selection.features, strict=True))
        rows: list[Tensor] = []
        places: list[int] = []
        for row in range(grid.frames * grid.height):
            kept = [index for index in range(row * grid.width, (row + 1) * grid.width) if index in tokens]
            rows += [*(tokens[index] for index in kept), self.llm.model.model.image_newline]
            # Before this row there are as many newlines as rows.
            places += [*(index + row for index in kept), (row + 1) * grid.width + row]
        return torch.stack(rows), torch.tensor(places)
