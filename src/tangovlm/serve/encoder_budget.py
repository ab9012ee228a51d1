"""How much the vision encoder does in one step of vLLM: its budget counts what it works on, not what is kept.

vLLM limits the videos that are encoded in one step by the number of their embeddings. Of a pruned video these are the
kept tokens, so that a step would encode ten times as many videos at 10 %, all of which wait for the last one before
their first token.
"""

from typing import Any

from . import compatibility
from .models.video_fields import retention_of

with compatibility.importing_vllm():
    from vllm.v1.core.encoder_cache_manager import EncoderCacheManager


class EncoderBudget(EncoderCacheManager):
    """The stock manager, which also limits the unpruned tokens of the videos of a step. One video is always encoded."""

    def __init__(self, cache_size: int) -> None:
        super().__init__(cache_size)
        self._whole = 0
        self._done: dict[int, int] = {}
        """Unpruned tokens of a step, by what is left of the budget of embeddings."""

    def can_allocate(
        self, request: Any, input_id: int, encoder_compute_budget: int, num_embeds_to_schedule: int
    ) -> bool:
        """Whether an item fits into the step and the cache; with stock bookkeeping."""
        if encoder_compute_budget >= self._whole:
            # Nothing was scheduled in this step so far.
            self._whole = encoder_compute_budget
            self._done = {encoder_compute_budget: 0}
        embeds = request.get_num_encoder_embeds(input_id)
        fields = request.mm_features[input_id].data
        work = embeds if fields is None else round(embeds / retention_of(fields))
        # A preempted request returns its part: then, this is what was done before it or a little more.
        done = self._done[max((left for left in self._done if left <= encoder_compute_budget), default=self._whole)]
        if done and done + work > self._whole:
            return False
        if not super().can_allocate(request, input_id, encoder_compute_budget, num_embeds_to_schedule):
            return False
        self._done[encoder_compute_budget - embeds] = done + work
        return True
