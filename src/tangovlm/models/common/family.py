"""What the rest of the library needs to know of a model family.

A family describes a stock `transformers` model: where its video features are made, how they lie on the (T, H, W) grid,
which signals its vision encoder gives away, and how a question about a video becomes its inputs. It knows no method.
"""

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...checkpoints.checkpoint import complete
from ...errors import InputError, ModelError
from ...machine.devices import device_of
from ...tokens import Selection, VideoTokens
from . import chunks
from .layout import Clip, Found, Grid, Prompt, Signals
from .prompt_format import PromptFormat
from .taps import Tap
from .transformers_compat import Arg

SALIENCY_KINDS: tuple[str, ...] = ("p-attn", "attn", "mean-query")

FEATURES: tuple[str, ...] = (
    "batch",
    "several videos",
    "image beside video",
    "multi-turn",
    "beams",
    "sampling",
    "assisted",
    "static cache",
    "no cache",
    "chunked encoding",
    "pruning inside",
)
"""Uses of a model that the tests know; a family names those in which it is tested."""


class Family(PromptFormat):
    """A family bound to one loaded model.

    Parameters
    ----------
    model: the stock model, e.g. `LlavaOnevisionForConditionalGeneration`.
    saliency: "p-attn", the attention of the encoder's pooling head, "attn", the mean attention of its last layer, or
        "mean-query", the attention of the mean query of that layer; None: the one that a method asks for, or where
        the family does not give that, the first of its own.
    head_weights: safetensors file, checkpoint directory or hub id with the pooling head, where the model has none.
    config: the checkpoint's preprocessor config where it is known, which may say how prompts are written.

    Raises
    ------
    InputError: unknown saliency.
    """

    name: ClassVar[str]
    checkpoints: ClassVar[tuple[str, ...]]
    """Hub ids of published checkpoints of the family."""
    tested: ClassVar[frozenset[str]] = frozenset(FEATURES)
    """Those of `FEATURES` in which the family is tested against an independent reference."""
    default_frames: ClassVar[int]
    feature_method: ClassVar[str] = "get_video_features"
    """Method of the encoder that makes the features."""
    visual_inputs: ClassVar[tuple[str, ...]] = (Arg.VIDEO_PIXELS,)
    """Arguments of the model that hold what is encoded."""
    mask_input: ClassVar[str | None] = None
    """Argument of the model that says which features of all videos stock code hands on, ``(R,)`` bool."""
    keeps_positions: ClassVar[bool] = False
    """Whether position ids have several rows (M-RoPE), of which kept tokens keep their own."""
    provides: ClassVar[frozenset[str]] = frozenset({"saliency", "timestamps", "frame_features", "keys"})
    saliency_kinds: ClassVar[tuple[str, ...]] = SALIENCY_KINDS
    middle_of_steps: ClassVar[bool] = False
    """Whether a step of several frames has, for the model, the time of their middle, and not that of the first one."""
    in_one_piece: ClassVar[bool] = False
    """Whether pixels alone give the features, which stand in the prompt side by side, those of the grid first."""

    def __init__(
        self,
        model: Any,
        *,
        saliency: str | None = None,
        head_weights: str | Path | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        if saliency is not None and saliency not in SALIENCY_KINDS:
            raise InputError(f"saliency is {saliency!r}: choose {' or '.join(map(repr, SALIENCY_KINDS))}")
        self.model = model
        self.saliency = saliency
        self.head_weights = head_weights
        self.config = config or {}

    @classmethod
    def load_model(cls, source: str, **options: Any) -> Any:
        """The stock model from a directory or hub id; `options` go to `from_pretrained`."""
        from transformers import AutoModelForImageTextToText

        return complete(AutoModelForImageTextToText, source, **options)

    @property
    def encoder(self) -> Any:
        """The object whose `feature_method` makes the features of all videos of a call: the model without its head."""
        return self.model.model

    @property
    def decoder(self) -> nn.Module:
        """The text model."""
        decoder: nn.Module = self.model.get_decoder()
        return decoder

    @property
    def width(self) -> int:
        """D: channels of the text model, and so of a feature."""
        config: Any = self.decoder.config
        return int(config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the text model runs."""
        return device_of(self.decoder)

    # --- videos in a call of the encoder ------------------------------------------------------------------------

    @abstractmethod
    def grids(self, *args: Any, **kwargs: Any) -> list[Grid]:
        """Token grids of what a call of `feature_method` encodes, from its arguments."""

    def clips(self, _prompt: Prompt, *args: Any, **kwargs: Any) -> list[Clip]:
        """The videos among what a call of `feature_method` encodes; by default all of it, one video a grid."""
        clips, start = [], 0
        for grid in self.grids(*args, **kwargs):
            clips.append(Clip(grid, start))
            start += grid.frames
        return clips

    def overlooked(self, _prompt: Prompt) -> str | None:
        """What the user should know where `clips` found no video."""
        return None

    def features(self, output: Any, clips: Sequence[Clip]) -> list[Tensor]:
        """Features of each video, ``(R, D)``, in the output of `feature_method`."""
        del clips
        return list(output.pooler_output)

    def replace_video_features(self, output: Any, clips: Sequence[Clip], features: Sequence[Tensor]) -> None:
        """Put features ``(R, D)`` in the place of those that `features` took."""
        del clips
        old = output.pooler_output
        output.pooler_output = torch.stack(list(features)) if isinstance(old, Tensor) else type(old)(features)

    def feature_count(self, grid: Grid) -> int:
        """R: features of a video, those of its grid and others such as newlines."""
        return grid.tokens

    def grid_indices(self, grid: Grid) -> slice | Tensor:
        """Where among the R features the tokens of the grid are, in raster order; ``(N,)`` if it is a tensor."""
        return slice(0, grid.tokens)

    def kept_features(self, selection: Selection, grid: Grid) -> Tensor:
        """Which of the R features the language model gets: ``(R,)`` bool; by default all that is not on the grid."""
        kept = torch.ones(self.feature_count(grid), dtype=torch.bool, device=selection.indices.device)
        on_grid = torch.zeros(grid.tokens, dtype=torch.bool, device=kept.device)
        on_grid[selection.indices] = True
        kept[self.grid_indices(grid)] = on_grid
        return kept

    def newlines(self, _selection: Selection, grid: Grid) -> int:
        """How many features that are not on the grid the language model gets beside a selection; by default all."""
        return self.feature_count(grid) - grid.tokens

    def tokens_within(self, rows: float, grid: Grid) -> float:
        """How many tokens of a grid can be kept, whichever these are, such that at most `rows` features stay."""
        return rows - (self.feature_count(grid) - grid.tokens)

    # --- encoding -----------------------------------------------------------------------------------------------

    @abstractmethod
    def frame_bytes(self, grids: Sequence[Grid]) -> int:
        """Working memory of one frame between its pixels and its features, roughly."""

    def encode(self, original: Callable[..., Any], chunk_frames: int | None, *args: Any, **kwargs: Any) -> Any:
        """What the stock `feature_method` gives, made of a few frames at a time.

        The result is that of the undivided call up to rounding (a matrix product of another size may add in another
        order), without the hidden states that stock code collects for itself. A call that is a single chunk is the
        stock one.

        Parameters
        ----------
        original: the stock `feature_method`; args, kwargs: of the call.
        chunk_frames: the most frames at a time, those of all videos in a row; None for what the device holds easily.

        Raises
        ------
        InputError: a device that is out of memory.
        """
        grids, device = self.grids(*args, **kwargs), self.device
        frames, frame_bytes = sum(grid.frames for grid in grids), self.frame_bytes(grids)
        at_once = min(frames, chunk_frames or chunks.frames_at_once(frame_bytes, device))
        with chunks.guarded(at_once, frame_bytes, device):
            if at_once == frames:
                return original(*args, **kwargs)
            as_tuple = kwargs.pop(Arg.AS_DICT, None) is False
            output = self.encode_chunks(
                original, chunks.bounds(frames, at_once), *args, **{Arg.AS_DICT: True}, **kwargs
            )
        return output.to_tuple() if as_tuple else output

    @abstractmethod
    def encode_chunks(
        self, original: Callable[..., Any], bounds: Sequence[tuple[int, int]], *args: Any, **kwargs: Any
    ) -> Any:
        """See `encode`.

        Parameters
        ----------
        bounds: (start, stop) of each chunk, at least two.
        """

    # --- signals ------------------------------------------------------------------------------------------------

    def resolve_saliency(self, wanted: str | None = None) -> str:
        """Which saliency to take: what the family was told, else what is wanted, else the first that it gives."""
        if self.saliency is not None:
            return self.saliency
        return wanted if wanted in self.saliency_kinds else self.saliency_kinds[0]

    def check(self, name: str, needs: frozenset[str], kind: str) -> None:
        """See that a method's signals are to be had.

        Parameters
        ----------
        name: of the method, for the message.
        kind: of the saliency.

        Raises
        ------
        ModelError: the family cannot give a signal, whatever the checkpoint.
        """
        missing = sorted(needs - self.provides)
        kinds = not missing and "saliency" in needs and kind not in self.saliency_kinds
        if kinds:
            missing = [f"the saliency {kind!r}"]
        if missing:
            raise ModelError(
                f"method {name!r} needs {missing[0]}, which the family {self.name} does not give: choose another "
                f"{'saliency, ' + ' or '.join(map(repr, self.saliency_kinds)) if kinds else 'method'}"
            )

    def prepare(self, needs: frozenset[str], kind: str | None = None) -> None:
        """Get ready to observe these signals, so that what is missing is found before anything is encoded.

        Parameters
        ----------
        kind: of the saliency, see `resolve_saliency`.

        Raises
        ------
        ModelError: the model cannot give a signal.
        """
        del needs, kind

    @contextmanager
    def observe(self, needs: frozenset[str], kind: str | None = None) -> Iterator[Signals]:
        """Within the context, signals of the vision encoder are collected; what it yields has them when it ends.

        Several calls within it, such as those for chunks of frames, follow each other. Hooks only: the encoder keeps
        its attention implementation.
        """
        signals = Signals()
        found: Found = defaultdict(list)
        hooks = [tap.put_on(tap.function) for tap in self.listen(found, needs, self.resolve_saliency(kind))]
        try:
            yield signals
        finally:
            for hook in hooks:
                hook.remove()
        self.collect(found, signals)

    @abstractmethod
    def listen(self, found: Found, needs: frozenset[str], kind: str) -> list[Tap]:
        """Hooks for the encoder that append to `found`; always the same places in the same order for the same needs."""

    def collect(self, found: Found, signals: Signals) -> None:
        """Put what the hooks of `listen` have found into `signals`."""
        for name, parts in found.items():
            setattr(signals, name, self.join(parts))

    def join(self, parts: list[Tensor]) -> Tensor | list[Tensor]:
        """Parts of a signal as `Signals` has them; by default there is one part a call, frames first."""
        return torch.cat(parts)

    def sinks(self, _grid: Grid) -> tuple[int, ...] | None:
        """Grid positions that the encoder is known to over-attend; None where nobody has looked."""
        return None

    # --- the prompt ---------------------------------------------------------------------------------------------

    @property
    def placeholder(self) -> int:
        """Id of the token that stands for a feature of a video in a prompt."""
        config = self.model.config
        return int(getattr(config, "video_token_index", None) or config.video_token_id)

    def video_token(self, tokenizer: Any) -> str:
        """See `PromptFormat.video_token`: the placeholder."""
        return str(tokenizer.convert_ids_to_tokens(self.placeholder))

    def videos(self, input_ids: Tensor, grids: Sequence[Grid]) -> Tensor:
        """Which video of its prompt each token stands for.

        Parameters
        ----------
        input_ids: ``(B, Q)`` whole prompts with their placeholders.
        grids: of the videos, in order; there may be copies of every prompt, side by side.

        Returns
        -------
        ``(B, Q)`` int64, counted from 0 in each prompt; -1 for all tokens outside a grid.
        """
        placeholder = input_ids == self.placeholder
        counts = placeholder.sum(dim=1).tolist()
        copies = max(1, sum(counts) // sum(self.feature_count(grid) for grid in grids))
        result, waiting = torch.full_like(input_ids, -1), list(grids)
        for first in range(0, len(counts), copies):
            numbers: list[Tensor] = []
            while sum(map(len, numbers)) < counts[first] and waiting:
                grid = waiting.pop(0)
                number = torch.full((self.feature_count(grid),), -1, device=input_ids.device)
                number[self.grid_indices(grid)] = len(numbers)
                numbers.append(number)
            for row in range(first, min(first + copies, len(counts)) if numbers else first):
                result[row, placeholder[row]] = torch.cat(numbers)
        return result

    @property
    def frames_per_step(self) -> int:
        """Sampled frames that one frame of the token grid stands for."""
        return 1

    def video_tokens(self, rows: Tensor, clip: Clip, signals: Signals, timestamps: Tensor | None) -> VideoTokens:
        """One video's features and signals as `VideoTokens`.

        Parameters
        ----------
        rows: ``(R, D)`` features of the video.
        signals: of the whole call.
        timestamps: ``(T,)`` seconds, one a frame of the grid.

        Raises
        ------
        InputError: NaN or infinite features or signals.
        """
        grid, frames = clip.grid, slice(clip.start, clip.start + clip.grid.frames)
        return VideoTokens(
            features=rows[self.grid_indices(grid)].view(*grid, -1),
            saliency=_of_frames(signals.saliency, frames, rows.device),
            timestamps=timestamps,
            frame_features=_of_frames(signals.frame_features, frames, rows.device),
            keys=_of_frames(signals.keys, frames, rows.device),
            sink_tokens=self.sinks(grid),
        )


def _of_frames(signal: Tensor | list[Tensor] | None, frames: slice, device: torch.device) -> Tensor | None:
    """The signal of a video, moved to its features, which another device may have made."""
    if signal is None:
        return None
    part = signal[frames]
    return (torch.stack(part) if isinstance(part, list) else part).to(device)
