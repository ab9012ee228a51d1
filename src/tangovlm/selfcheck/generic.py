"""The check of a model of no known family: on the model itself, with noise for a video.

A reference embeds a prompt with the stock encoder, leaves out dropped tokens and runs the text model on what remains,
without hooks and cache. It must equal the stock model where nothing is dropped, and the attached model where most is.
Whatever a model does beside that (features for several layers, masks over pictures, inputs of its own for each layer)
makes a difference, and the model is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError
from ..models.common.layout import Prompt
from ..models.common.transformers_compat import Arg, Signature
from ..models.generic import Generic, frame_size
from ..tokens import Selection, VideoTokens
from .twins.common.norms import Norms

STEPS, NEW = 3, 3
"""Steps of the video, and generated tokens."""
TOLERANCE = 0.05
"""Largest difference of two logits, as a part of the largest one that dropping tokens makes."""

AttachFamily = Callable[..., AbstractContextManager[Any]]
"""The type of `session.attach.attach_family`, which this layer cannot import."""


def check_generic(family: Generic, attach_family: AttachFamily) -> None:
    """Compare an attached model with the reference.

    Raises
    ------
    ModelError: they differ, or the model cannot be run on a small video.
    """
    found: list[str] = []
    failed: list[str] = []
    for per_step in (False, True):
        try:
            difference = _Check(family, per_step).difference(attach_family)
        except ModelError:
            raise
        except Exception as error:
            # Stock code fails in its own ways, for example where it expects other prompts.
            failed.append(f"stock code fails ({type(error).__name__}: {' '.join(str(error).split())})")
            continue
        if not difference:
            return
        found.append(difference)
    raise ModelError(
        f"{type(family.model).__name__} does not pass the check of models of no known family, so that pruned answers "
        f"would be wrong: {(found or failed)[0]}"
    )


class _Check:
    """One prompt: words, a video of noise in one run of placeholders or one a step, and words."""

    def __init__(self, family: Generic, per_step: bool) -> None:
        self.family, self.model = family, family.model
        self.pruner = Norms(0.3)
        generator = torch.Generator().manual_seed(0)
        shapes = _video_shapes(family)
        self.video = {
            name: value if isinstance(value, Tensor) else torch.randn(value, generator=generator)
            for name, value in shapes.items()
        }
        self.video = {
            name: value.to(family.device, self.model.dtype if value.is_floating_point() else None)
            for name, value in self.video.items()
        }
        (grid,) = family.layout.grids(**self.video)
        self.grid = grid
        words = self._words(generator)
        placeholder, size = family.layout.placeholder, grid.height * grid.width
        runs = [[placeholder] * size] * grid.frames if per_step else [[placeholder] * grid.tokens]
        ids = [next(words), next(words)]
        for run in runs:
            ids += [*run, next(words)]
        self.ids = torch.tensor([[*ids, next(words), next(words)]], device=family.device)

    def _words(self, generator: torch.Generator) -> Iterator[int]:
        config = self.model.config
        special = {value for name, value in vars(config).items() if name.endswith(("_token_id", "_token_index"))}
        size = config.get_text_config().vocab_size
        while True:
            word = int(torch.randint(size // 4, size // 2, (1,), generator=generator))
            if word not in special:
                yield word

    def inputs(self, ids: Tensor) -> dict[str, Any]:
        """Arguments of the model."""
        given = {Arg.IDS: ids, Arg.MASK: torch.ones_like(ids), **self.video}
        if Arg.TOKEN_TYPES in Signature(self.model.forward, "the model", ()).names:
            given[Arg.TOKEN_TYPES] = 2 * (ids == self.family.layout.placeholder).int()
        return given

    @torch.no_grad()
    def difference(self, attach_family: AttachFamily) -> str:
        """What differs; "" if nothing does."""
        ids, frames = self.ids, self.grid.frames * self.family.layout.frames_per_step
        times = torch.arange(frames, dtype=torch.float64)
        whole = self._reference(ids, None)
        features = self._features()
        selection = self.pruner(VideoTokens(features.view(*self.grid, -1)))
        meant = float((self._reference(ids, selection) - whole).abs().max())
        stock = self.model(**self.inputs(ids), **{Arg.USE_CACHE: False}).logits[0, -1].float()
        limit = TOLERANCE * meant
        if not float((stock - whole).abs().max()) <= limit:
            return "the stock model does more with a video than its features, placeholders and text model say"
        with attach_family(self.family, self.pruner, timestamps=times):
            output = self.model.generate(
                **self.inputs(ids), max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, num_beams=1,
                output_logits=True, return_dict_in_generate=True,
            )  # fmt: skip
        for step, logits in enumerate(output.logits):
            expected = self._reference(output.sequences[:, : ids.shape[1] + step], selection)
            if not float((logits[0].float() - expected).abs().max()) <= limit:
                return f"token {step + 1} of the answer about a pruned video differs from that of a reference"
        return ""

    def _features(self) -> Tensor:
        encoder = self.family.encoder
        output = getattr(encoder, self.family.feature_method)(**self.video, **{Arg.AS_DICT: True})
        (rows,) = self.family.layout.features(output, self.family.layout.clips(Prompt(), **self.video))
        return rows

    def _reference(self, ids: Tensor, selection: Selection | None) -> Tensor:
        """Logits ``(V,)`` of the last position."""
        family, model = self.family, self.model
        at = (ids[0] == family.layout.placeholder).nonzero()[: self.grid.tokens, 0]
        kept = torch.ones_like(ids[0], dtype=torch.bool)
        embeds = model.get_input_embeddings()(ids).clone()
        embeds[0, at] = self._features().to(embeds.dtype)
        if selection is not None:
            embeds[0, at[selection.indices]] = selection.features.to(embeds.dtype)
            kept[at] = False
            kept[at[selection.indices]] = True
        positions = torch.arange(int(kept.sum()), device=ids.device)[None]
        if family.keeps_positions:
            given = self.inputs(ids)
            known = {name: given[name] for name in (Arg.TOKEN_TYPES, Arg.VIDEO_GRIDS, Arg.MASK) if name in given}
            positions = family.encoder.get_rope_index(ids, **known)[0][:, :, kept]
        output = family.decoder(
            **{
                Arg.EMBEDS: embeds[:, kept],
                Arg.MASK: torch.ones_like(ids[:, kept]),
                Arg.POSITIONS: positions,
                Arg.USE_CACHE: False,
            }
        )
        logits: Tensor = model.get_output_embeddings()(output.last_hidden_state[0, -1]).float()
        return logits


def _video_shapes(family: Generic) -> dict[str, Any]:
    """Shapes of the pixels of a small video, and its grid if the model takes one."""
    config = family.model.config
    if not family.patched:
        return {Arg.VIDEO_PIXELS: (1, STEPS, 3, *frame_size(config))}
    vision, merge = config.vision_config, family.merge_size
    rows, columns = 2 * merge, 3 * merge
    pair, side = family.layout.frames_per_step, int(vision.patch_size)
    channels = int(getattr(vision, "in_channels", getattr(vision, "in_chans", 3)))
    return {
        Arg.VIDEO_PIXELS: (STEPS * rows * columns, channels * pair * side**2),
        Arg.VIDEO_GRIDS: torch.tensor([[STEPS, rows, columns]]),
    }
