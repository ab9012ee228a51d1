"""What a method does inside the calls of an attached model; the numbered steps are those of `tangovlm.attach`."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .errors import InputError
from .families import seen, splice
from .families import timestamps as times
from .families.base import Family
from .families.call import Clip, Grid, Signals
from .families.fit import refusal, too_long
from .families.stopwatch import Stopwatch
from .families.told import Told
from .inllm import masks
from .inllm.base import Inside
from .inllm.limits import check_cache, check_generation
from .inllm.pair import Pair, Plan
from .inllm.runner import Runner
from .memory import memory_guard
from .records import Records, VideoRecord
from .tokens import NO_TIMESTAMPS, Pruner, Report, Selection, VideoReport, VideoTokens

STAGES = ("encode", "prune", "prefill", "decode_tokens")
_ENCODED_INPUTS = ("mm_encoder_outputs", "inputs_embeds")


class Session:
    """A method on a model; what `attach` yields.

    `report` adds up all calls since the model was attached: one entry a video in the order in which they were encoded.
    `videos` has a `VideoRecord` for each of them if the session was asked to record.
    """

    def __init__(
        self,
        family: Family,
        pruner: Pruner | Inside | Pair,
        plan: Plan,
        timestamps: Any = None,
        record: bool = False,
        positions: str | None = None,
        chunk_frames: int | None = None,
    ) -> None:
        self.family = family
        self.pruner = pruner
        self.plan = plan
        self.runner = None if plan.inside is None else Runner(family.decoder, plan.inside, plan.cuts)
        self.original_positions = positions == "original" or family.keeps_positions
        self.chunk_frames = chunk_frames
        self._records = Records(record)
        self._told = Told(family, None if timestamps is None else times.given(timestamps))
        self._clock = Stopwatch(family.device, STAGES)
        self._in_generate = False
        self._first_forward = False
        self._timed = False
        self._step: splice.Advance | None = None
        self._may_hold_tags = False
        self._grids: list[Grid] = []
        self._ids: Tensor | None = None
        for note in plan.notes:
            self._records.note(note)

    @property
    def identity(self) -> bool:
        """Whether everything is kept, so that the model must run untouched."""
        return self.plan.before is None and self.runner is None

    @property
    def needs(self) -> frozenset[str]:
        """Signals that have to be computed."""
        return frozenset() if self.plan.before is None else self.plan.before.needs

    @property
    def saliency(self) -> str:
        """Which saliency the family observes: the one it was given, else the one that the method is meant for."""
        return self.family.kind(getattr(self.pruner, "signal", None))

    @property
    def report(self) -> Report:
        """All calls so far: counts per video, fallbacks, ms per stage (`decode_tokens` of `generate` only)."""
        return Report(tuple(self._records.reports), dict(self._clock.totals_ms), tuple(self._records.notes))

    @property
    def videos(self) -> list[VideoRecord]:
        """What pictures need, one entry a video; empty unless the session was asked to record."""
        return self._records.videos

    # --- step 2: encoding -----------------------------------------------------------------------------------------

    def encode(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The stock features, with dropped tokens tagged."""
        clips = self.family.clips(self._told.prompt, *args, **kwargs)
        if not clips and not self.identity and (note := self.family.overlooked(self._told.prompt)):
            self._records.note(note)
        self._grids = [clip.grid for clip in clips]
        self._check_fit(clips)
        if self.runner is not None and any(clip.handed_on is not None for clip in clips):
            raise InputError(
                f"{self.family.mask_input} leaves out visual tokens, but pruning inside the model needs all of them: "
                "process videos with use_token_compression=False"
            )
        if self.plan.before is None or not clips:
            # Where nothing is pruned, dividing the call could change a bit of the stock result: only on request.
            whole = sum(grid.frames for grid in self.family.grids(*args, **kwargs))
            with self._clock.stage("encode"):
                output = self.family.encode(original, self.chunk_frames or whole, *args, **kwargs)
            for clip in clips:
                self._keep_all(clip)
            return output
        as_tuple = kwargs.pop("return_dict", None) is False
        with self._clock.stage("encode"), self.family.observe(self.needs, self.saliency) as signals:
            output = self.family.encode(original, self.chunk_frames, *args, return_dict=True, **kwargs)
        features = self.family.features(output, clips)
        tokens = self._tokens(features, clips, signals)
        self.family.put(output, clips, [self._prune(*each) for each in zip(tokens, features, clips, strict=True)])
        return output.to_tuple() if as_tuple else output

    def _check_fit(self, clips: Sequence[Clip]) -> None:
        """See that whole prompts have room for their videos, and the model for the prompts."""
        self._told.check_fit(clips)
        ids = self._told.input_ids
        if ids is None or not clips or self._told.continues or self.plan.before is not None:
            return
        if too_long(self.family, ids.shape[1]):
            grids = [clip.grid for clip in clips]
            # Images may have the same placeholder.
            visual = min(int((ids == self.family.placeholder).sum(dim=1).max()), sum(map(self.family.rows, grids)))
            # Pruning inside the model begins behind layers that see everything.
            raise refusal(self.family, ids.shape[1], visual, visual, grids, 1.0 if self.identity else None)

    def _tokens(self, features: Sequence[Tensor], clips: Sequence[Clip], signals: Signals) -> Iterator[VideoTokens]:
        for rows, clip, time in zip(features, clips, self._told.timestamps(clips), strict=True):
            yield self.family.video_tokens(rows, clip, signals, time)

    def _prune(self, tokens: VideoTokens, rows: Tensor, clip: Clip) -> Tensor:
        before, pruner = self._clock.totals_ms["prune"], self.plan.before
        assert pruner is not None
        wanted = f"pruning the {tokens.count} tokens of a video"
        with self._clock.stage("prune"), memory_guard(rows.device, wanted, "give fewer frames, or free memory"):
            selection = pruner(tokens)
            tagged = self.family.tagged(rows, clip.grid, selection)
        report = VideoReport(
            tokens_before=tokens.count,
            tokens_after=self._handed_on(clip, selection),
            retention=self.plan.retention,
            method=self.plan.name,
            segments=selection.segments,
            timings_ms={"prune": self._clock.totals_ms["prune"] - before},
            notes=tuple(dict.fromkeys((*self.plan.notes, *clip.notes, *self._fallbacks(tokens), *selection.notes))),
        )
        for note in report.notes:
            self._records.note(note)
        self._records.add(report, selection, tokens.saliency)
        return tagged

    def _fallbacks(self, tokens: VideoTokens) -> Iterator[str]:
        if "timestamps" in self.needs and tokens.timestamps is None:
            yield NO_TIMESTAMPS
        if tokens.sink_tokens is None and getattr(self.plan.before, "sink_tokens", ()) is None:
            yield f"no sink positions are known for a grid of {tokens.height} x {tokens.width}: none are masked"
        wanted = getattr(self.pruner, "signal", None)
        if "saliency" in self.needs and self.family.saliency is None and wanted not in (None, self.saliency):
            yield f"the family {self.family.name} does not give the saliency {wanted!r}: {self.saliency!r} is taken"

    def _keep_all(self, clip: Clip) -> None:
        plan, grid = self.plan, clip.grid
        slots = torch.arange(grid.tokens)
        selection = Selection(slots, torch.empty(grid.tokens, 0), slots.view(*grid), (grid.frames,))
        left, notes = self._handed_on(clip, selection), (*plan.notes, *clip.notes)
        report = VideoReport(grid.tokens, left, plan.retention, plan.name, (grid.frames,), {"prune": 0.0}, notes)
        self._records.add(report, selection, None)

    def _handed_on(self, clip: Clip, selection: Selection) -> int:
        """How many of the tokens that were kept the language model gets."""
        if clip.handed_on is None:
            return selection.indices.numel()
        on_grid = clip.handed_on[self.family.places(clip.grid)]
        return int(on_grid[selection.indices.to(on_grid.device)].sum())

    # --- steps 1 and 3: around generate and forward ---------------------------------------------------------------

    def generate(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The stock `generate`, timed, which also takes `video_metadata`."""
        if self.runner is not None:
            named = dict(zip(inspect.signature(original).parameters, args, strict=False))
            check_generation(named | kwargs, self.family.model.generation_config)
        if not self._in_generate:
            self._begin_call(_ids(args, kwargs, "inputs"), kwargs, prompt=True)
        outer = self._in_generate, self._told
        self._told = self._told.timed(kwargs).masked(kwargs)
        self._in_generate = True
        try:
            with self._clock.stage("prefill"):
                return original(*args, **kwargs)
        finally:
            self._in_generate, self._told = outer
            self._first_forward = False
            self._end_call()

    def prepare_inputs(self, original: Callable[..., Any], input_ids: Any, **kwargs: Any) -> Any:
        """The stock preparation of one forward; see step 3 of the module."""
        first = bool(kwargs.get("is_first_iteration"))
        self._first_forward = first
        if self.identity:
            return original(input_ids, **kwargs)
        state = seen.seen(kwargs.get("past_key_values"))
        if state is not None and first and kwargs.get("next_sequence_length") is not None:
            embeds = kwargs.get("inputs_embeds")
            kwargs["next_sequence_length"] = (input_ids if embeds is None else embeds).shape[1] - state.unpruned
        inputs = original(input_ids, **kwargs)
        if state is not None or self._is_visual(inputs) or masks.recall(kwargs.get("past_key_values")) is not None:
            # For a static cache stock code makes the mask here, over places that pruning moves: let the text model
            # make it.
            mask = inputs.get("attention_mask")
            if mask is not None and not (isinstance(mask, Tensor) and mask.dim() == 2):
                inputs["attention_mask"] = kwargs.get("attention_mask")
        return inputs

    def before_forward(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """In front of the whole model."""
        if not self._in_generate:
            self._begin_call(_ids(args, kwargs, "input_ids"), kwargs, prompt=self._is_visual(kwargs))
            self._told = self._told.timed(kwargs)
            self._first_forward = self._is_visual(kwargs)
        self._told = self._told.masked(kwargs)
        self._timed = False
        if not self.identity and kwargs.get("labels") is not None and self._is_visual(kwargs):
            raise InputError("labels do not fit the pruned sequence: leave them out, or leave the attach context")
        if self._first_forward:
            self._clock.enter("prefill")
            self._timed = True
        return args, kwargs

    def after_forward(self, _module: nn.Module, _args: tuple[Any, ...], _output: Any) -> None:
        """Behind the whole model, also when it raised."""
        if self._timed:
            self._clock.leave()
            self._clock.turn_into("decode_tokens")
        self._timed = self._first_forward = False
        self._end_call()

    def _begin_call(self, input_ids: Any, kwargs: dict[str, Any], prompt: bool) -> None:
        """In front of a call of the user's: forget what a failed one and a cache that was reset left behind."""
        # Videos that the user has encoded by hand are read in this call.
        if not kwargs.get("mm_encoder_outputs"):
            self._records.begin_call()
        cache = kwargs.get("past_key_values")
        # Only a prompt may ask the device for the length, not every word of a loop written by hand.
        continues = prompt and cache is not None and int(cache.get_seq_length()) > 0
        if prompt and cache is not None and not continues:
            seen.forget(cache)
            masks.forget(cache)
        self._told = self._told.begun(input_ids, continues)

    def _end_call(self) -> None:
        """Behind a call of the user's: features that are made by hand next belong to no prompt."""
        if not self._in_generate:
            self._told = self._told.begun(None, continues=False)

    def _is_visual(self, kwargs: dict[str, Any]) -> bool:
        values = [kwargs.get(name) for name in (*self.family.visual_inputs, *_ENCODED_INPUTS)]
        # Stock code hands on an empty mapping of encoder outputs where there are none.
        return any(value is not None and not (isinstance(value, dict) and not value) for value in values)

    # --- step 4: in front of the text model -----------------------------------------------------------------------

    def position_ids(self, original: Callable[..., Any], inputs: Any, options: dict[str, Any]) -> Any:
        """The stock position ids of several rows, which are made from the unpruned length of a cache."""
        if self.family.keeps_positions and any(options.get(name) is not None for name in self.family.visual_inputs):
            # Stock code stumbles here over placeholders that do not fit, before anything is encoded.
            names = inspect.signature(getattr(self.family.encoder, self.family.feature_method)).parameters
            taken = {name: options[name] for name in names if name in options}
            self._check_fit(self.family.clips(self._told.prompt, **taken))
        state = seen.seen(options.get("past_key_values"))
        return original(
            inputs, options if state is None else options | {"past_key_values": seen.Unpruned(state.unpruned)}
        )

    def before_base(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """In front of the model without its head: only a forward that is handed visual features can hold tags."""
        self._may_hold_tags = bool(args) or self._is_visual(kwargs)
        self._ids = None
        if self.runner is not None and self._may_hold_tags:
            self._ids = args[0] if args else kwargs.get("input_ids")
            if self._ids is None:
                raise InputError("pruning inside the model needs input_ids, which say where the video is")
        state = seen.seen(kwargs.get("past_key_values")) if self.family.keeps_positions else None
        if state is None or args or kwargs.get("position_ids") is not None:
            return None
        new, mask = kwargs.get("input_ids"), kwargs.get("attention_mask")
        new = kwargs["inputs_embeds"][..., 0] if new is None else new
        valid = torch.ones_like(new, dtype=torch.bool)
        if isinstance(mask, Tensor) and mask.dim() == 2:
            valid = mask[:, -new.shape[1] :]
        # Stock code would count from the length of the pruned cache, and go by its last call, whichever that was.
        return args, kwargs | {"position_ids": state.next_positions(valid)}

    def before_decoder(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """In front of the text model."""
        self._step = None
        if kwargs.get("inputs_embeds") is None:
            return None
        # The videos have been encoded by now.
        videos = None if self._ids is None or not self._grids else self.family.videos(self._ids, self._grids)
        self._ids = None
        kwargs = kwargs | self._spliced(kwargs)
        if self.runner is not None:
            if videos is not None and self._in_generate:
                check_cache(kwargs.get("past_key_values"))
            if videos is not None and self._step is not None and self._step.places is not None:
                videos = videos.to(self._step.places.device).gather(1, self._step.places)
                videos = videos.masked_fill(~self._step.valid, -1)
            mask = kwargs.get("attention_mask")
            if mask is not None and not (isinstance(mask, Tensor) and mask.dim() == 2):
                raise InputError("pruning needs the 2-D attention_mask (batch, positions), not a prepared mask")
            self.runner.begin(kwargs["inputs_embeds"], mask, kwargs.get("past_key_values"), videos)
        return args, kwargs

    def _spliced(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Keywords of the text model that dropped tokens change."""
        embeds, cache = kwargs["inputs_embeds"], kwargs.get("past_key_values")
        state = seen.seen(cache)
        tagged = splice.find_tagged(embeds) if self._may_hold_tags and self.plan.before is not None else None
        if state is None and tagged is None:
            return {}
        past, rows = _length(cache, state), kwargs.get("position_ids")
        if not self.family.keeps_positions or (rows is not None and rows.dim() != 3):
            rows = None
        step = splice.advance(
            embeds,
            kwargs.get("attention_mask"),
            past,
            state,
            tagged,
            original=self.original_positions,
            several=self.family.keeps_positions,
            rows=rows,
        )
        self._step, mask = step, step.mask
        length = past + step.valid.shape[1]
        if tagged is not None and too_long(self.family, length):
            raise self._too_long(length, tagged, step)
        if mask is None and cache is None and self.original_positions:
            # Without cache and mask, stock code takes gaps between position ids for the borders of packed prompts.
            mask = step.state.mask.long()
        changed: dict[str, Any] = {"inputs_embeds": step.embeds, "attention_mask": mask}
        changed["position_ids"] = step.position_ids
        if step.places is not None and kwargs.get("deepstack_visual_embeds") is not None:
            visual, layers = splice.gather_layers(kwargs["visual_pos_masks"], kwargs["deepstack_visual_embeds"], step)
            changed |= {"visual_pos_masks": visual, "deepstack_visual_embeds": layers}
        return changed

    def _too_long(self, length: int, tagged: Tensor, step: splice.Advance) -> InputError:
        assert self.plan.before is not None
        row, share = int(step.valid.sum(dim=1).argmax()), self.plan.before.retention
        dropped = int(tagged[row].sum())
        # Each video may have lost half a token less by rounding; fewer visual tokens propose a smaller retention.
        least = max(0.0, dropped - len(self._grids) / 2) / (1 - share)
        visual = self._told.visual_tokens(row, len(tagged)) or least
        return refusal(self.family, length, visual, visual - dropped, self._grids, self.plan.retention / share)

    def before_layer(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """In front of a layer of the text model, which needs position ids for nothing but finding packed prompts."""
        return args, kwargs | {"position_ids": None}

    def after_decoder(self, _module: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Behind the text model, which may have made the cache itself."""
        cache = kwargs.get("past_key_values")
        cache = getattr(output, "past_key_values", None) if cache is None else cache
        if self._step is not None and cache is not None:
            seen.remember(cache, self._step.state)
        self._step = None
        if self.runner is not None:
            self._records.read(self.runner.end(cache))


def _ids(args: tuple[Any, ...], kwargs: dict[str, Any], first: str) -> Any:
    """The token ids of a call whose first argument has the name `first`."""
    found = args[0] if args else kwargs.get(first)
    return kwargs.get("input_ids") if found is None else found


def _length(cache: Any, state: seen.Seen | None) -> int:
    if cache is None:
        return 0
    # The state knows the length without asking the device.
    return int(cache.get_seq_length()) if state is None else state.mask.shape[1]
