"""Expected answers of the thinkers of Qwen's Omni models, from the stock model of any release of transformers.

The inputs of its text model are recorded, the dropped tokens of videos are left out of them, with their positions, and
the text model answers token by token.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import tangovlm
from tangovlm.inputs import timestamps
from tangovlm.models.common.layout import Clip
from tangovlm.models.common.transformers_compat import Arg
from tangovlm.models.qwen2_5_omni import Thinker
from tests.support.serve.engine import SAMPLES_PER_S, Reply, Request
from tests.support.serve.qwen_checkpoints import PIXELS


@dataclass(frozen=True)
class OmniOracle:
    """The stock thinker and its processor, a method, and its retention where a request names none."""

    thinker: Any
    processor: Any
    family_class: type[Thinker]
    method: str = "tango"
    retention: float = 0.1

    @classmethod
    def of(cls, folder: Path, family: type[Thinker], method: str = "tango") -> "OmniOracle":
        import transformers
        from transformers import AutoConfig, AutoProcessor

        kind = getattr(transformers, family.thinker_class)
        config = AutoConfig.from_pretrained(folder).thinker_config
        thinker = kind.from_pretrained(folder, config=config, dtype=torch.float32).eval()
        return cls(thinker, AutoProcessor.from_pretrained(folder), family, method)

    @cached_property
    def family(self) -> Thinker:
        """The family, bound to the thinker, also where an older release has no model without its head."""
        thinker = self.thinker
        bound = type("Bound", (self.family_class,), {"since": "", "encoder": property(lambda _: thinker)})
        return bound(thinker)

    @torch.no_grad()
    def reply(self, request: Request) -> Reply:
        """Greedy tokens and their log-probabilities."""
        inputs = self.inputs(request)
        (ids,) = inputs["input_ids"].tolist()
        text, head = self.thinker.model, self.thinker.lm_head
        told: dict[str, Any] = {}
        hook = text.register_forward_pre_hook(lambda _module, _args, kwargs: told.update(kwargs), with_kwargs=True)
        self.thinker(**inputs)
        hook.remove()
        kept, features = self.kept(request, inputs)
        embeds, places = told["inputs_embeds"].clone(), told["position_ids"]
        visual = torch.tensor(ids) == self.thinker.config.video_token_id
        embeds[0, visual] = features
        stays = ~visual
        stays[visual] = kept
        deep: dict[str, Any] = {}
        if told.get(Arg.DEEP_FEATURES) is not None:
            seen = told[Arg.DEEP_PLACES].view(1, -1)
            deep = {
                Arg.DEEP_PLACES: seen[:, stays],
                Arg.DEEP_FEATURES: [layer[stays[seen[0]]] for layer in told[Arg.DEEP_FEATURES]],
            }
        return self._decode(text, head, embeds[:, stays], places[..., stays], deep, request)

    def _decode(
        self, text: Any, head: Any, embeds: Tensor, places: Tensor, deep: dict[str, Any], request: Request
    ) -> Reply:
        length, cache = embeds.shape[1], None
        said: list[int] = []
        logprobs: list[float] = []
        while len(said) < request.max_tokens and not (said and said[-1] == self.processor.tokenizer.eos_token_id):
            output = text(inputs_embeds=embeds, position_ids=places, past_key_values=cache, use_cache=True, **deep)
            cache, deep = output.past_key_values, {}
            scores = head(output.last_hidden_state[0, -1]).log_softmax(-1)
            said.append(int(scores.argmax()))
            logprobs.append(float(scores.max()))
            embeds = text.get_input_embeddings()(torch.tensor([[said[-1]]]))
            places = places[..., -1:] + 1
        return Reply(said, logprobs, length, 0)

    def kept(self, request: Request, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Which tokens of all videos are kept, and the features of all, those that are kept as the method returns."""
        masks, rows = [torch.zeros(0, dtype=torch.bool)], [torch.zeros(0, self.thinker.config.text_config.hidden_size)]
        retention = self.retention if request.retention is None else float(request.retention)
        pruner = tangovlm.method(self.method, retention=retention)
        grids = inputs.get(Arg.VIDEO_GRIDS, torch.zeros(0, 3).long())
        patches = torch.split(inputs.get(Arg.VIDEO_PIXELS, torch.zeros(0, 1)), grids.prod(dim=1).tolist())
        kind = self.family.signals.resolve_saliency(getattr(pruner, "signal", None))
        for pixels, thw, (_, metadata) in zip(patches, grids, request.videos, strict=True):
            with self.family.signals.observe(self.family.signals.readable(pruner), kind) as signals:
                output = self.thinker.get_video_features(pixels, thw[None], return_dict=True)
            (features,) = output.pooler_output
            (grid,) = self.family.layout.grids(pixels, thw[None])
            times = None if metadata is None else timestamps.from_metadata(metadata)[0]
            (seconds,) = timestamps.assign([times], [grid.frames], 2, False)
            selection = pruner(self.family.video_tokens(features, Clip(grid, 0), signals, seconds))
            features[selection.indices] = selection.features
            mask = torch.zeros(grid.tokens, dtype=torch.bool)
            mask[selection.indices] = True
            masks.append(mask)
            rows.append(features)
        return torch.cat(masks), torch.cat(rows)

    def inputs(self, request: Request) -> dict[str, Any]:
        """Inputs of the thinker."""
        media: dict[str, Any] = {}
        if request.images:
            media["images"] = [Image.fromarray(each) for each in request.images]
        if request.videos:
            media["videos"] = [frames for frames, _ in request.videos]
        if request.sounds:
            media |= {"audio": list(request.sounds), "sampling_rate": SAMPLES_PER_S}
        return dict(self.processor(text=[request.prompt], return_tensors="pt", size=PIXELS, **media))
