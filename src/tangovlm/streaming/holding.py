"""From frames as they arrive to what is held of all of them."""

from typing import Any

from torch import Tensor

from ..errors import InputError
from ..machine.stopwatch import Stopwatch
from ..methods.build import Method
from ..models.common.chunks import check_chunk_frames
from ..pipeline.encoded.model_state import ModelState
from ..pipeline.loaded import LoadedModel
from ..tokens import VideoTokens
from .arrivals import Arrivals
from .chunks import ChunkPruner
from .memory import Memory
from .segment import Segment


class Holding:
    """The frames of a stream: those that wait, the chunk that is not full yet, and the memory.

    Parameters
    ----------
    llm: the model.
    method, memory, fps, chunk_frames, encode: see `tangovlm.stream`.

    Attributes
    ----------
    arrivals: the frames that wait for the encoder.
    memory: what is held of whole chunks.
    pruner: of chunks.
    """

    def __init__(
        self, llm: LoadedModel, method: Method, memory: Memory, *, fps: float, chunk_frames: int, encode: Any
    ) -> None:
        check_chunk_frames(chunk_frames)
        self.llm, self.memory = llm, memory
        self.arrivals = Arrivals(fps)
        self.pruner = ChunkPruner(llm, method, encode)
        self._chunk_frames = chunk_frames
        self._pieces: list[VideoTokens] = []
        self._chunk_start = 0
        self._current: tuple[int, list[Segment]] | None = None
        self._state: ModelState | None = None

    @property
    def frames(self) -> int:
        """Frames that have arrived so far."""
        return self.arrivals.count

    def add(self, frames: Tensor, time_s: object) -> None:
        """See `Stream.add`."""
        for picture, time in self.arrivals.checked(frames, time_s):
            self.arrivals.push(picture, time)
            if self.frames - self._chunk_start >= self._chunk_frames:
                self._close_chunk()

    def now(self, clock: Stopwatch) -> list[Segment]:
        """What is held of all frames; the same list while no frame arrives.

        Parameters
        ----------
        clock: counts the stages "encode" and "prune".
        """
        self._check_model()
        if self._current is None or self._current[0] != self.frames:
            with clock.stage("encode"):
                self._encode()
            with clock.stage("prune"):
                segments = self.memory.segments
                if self._pieces:
                    segments = self.memory.preview(self.pruner.prune(self._pieces, self._chunk_start))
                self._current = self.frames, list(segments)
        return self._current[1]

    def _encode(self) -> None:
        """Encode the frames that wait."""
        if len(self.arrivals):
            self._pieces.append(self.pruner.encode(*self.arrivals.held()))
            self.arrivals.drop()

    def _close_chunk(self) -> None:
        self._check_model()
        self._encode()
        self.memory.add(self.pruner.prune(self._pieces, self._chunk_start))
        self._pieces, self._chunk_start, self._current = [], self.frames, None

    def _check_model(self) -> None:
        """Raise `InputError` if the model is not the one that has encoded the frames before."""
        state = ModelState.of(self.llm.model)
        if self._state not in (None, state):
            raise InputError(
                "weights, hooks or adapters of the model were changed since frames were encoded: begin another stream"
            )
        self._state = state
