"""A video that is decoded, encoded and pruned once, for many questions."""

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from ...inputs.prompting import check_history, check_question, check_questions
from ...methods.build import Method, plan
from ...models.common.transformers_compat import Arg, cache_in
from ...session.attach import attach_family, check_method
from ...session.memo import Memo, UnprunedFeatures
from ...session.placeholders import encoder_clips
from ...session.session import Session
from ...tokens import VideoReport
from ...video import Frames, FrameSampling
from ...video.input import VideoSource
from ..answer import Answer
from ..arguments import resolve_method
from ..embedded import FOLLOW_UP_NOTE, FOREIGN_NOTE
from ..frame_source import Progress
from ..generation import answer_text, check_max_new_tokens, generate, kept_rope_deltas, no_progress, streamer_of
from ..loaded import LoadedModel
from ..settings import Support
from ..streamer import TextSoFar
from .encoding import Encoding, Prefilled, answer_in_batch, prepare
from .prefix import Prefix, prefix_length, shares_prefix

_ANY_QUESTION = "?"


def encode(
    llm: LoadedModel,
    video: VideoSource | Frames,
    *,
    method: str | Method = "tango",
    retention: float | None = None,
    questions: Sequence[str] = (),
    frames: FrameSampling,
    progress: Progress | None = None,
    **options: Any,
) -> "EncodedClip":
    """See `VideoLLM.encode`; `options` are those of `prepare`."""
    pruner = resolve_method(method, retention)
    for question in questions:
        check_question(question)
    encoding = prepare(llm, video, frames=frames, progress=progress, **options)
    if encoding.note == FOREIGN_NOTE:
        # The caller of `VideoLLM.encode`.
        warnings.warn(encoding.note, UserWarning, stacklevel=4)
    encoding.check(pruner, questions)
    report = progress or no_progress
    report("encode", 0, 1)
    encoded = EncodedClip(encoding, pruner)
    report("encode", 1, 1)
    return encoded


class EncodedClip:
    """A video that was decoded, encoded and pruned once, for many questions; `VideoLLM.encode` makes it.

    It holds the pixels and features of the video and a KV cache of its kept tokens on the device of the model, so drop
    it when all questions are asked. A method that does not read the question prunes once, and the language model reads
    the part of the prompt up to the end of the video once. A method inside the language model (`tangovlm fastv` and
    the like, also in a pair) prunes by the question: then only decoding, encoding and a method before the language
    model are shared, and the encoder runs when the first question is asked.

    Answers are those of `tangovlm.ask` for each question alone, up to rounding: a prompt that is read in two parts, and
    a batch with padding, add in another order. If weights, dtype, device, hooks or adapters of the model are changed,
    the video is encoded again. With settings of the generation config that do not go with a continued prompt, only the
    features are shared, see `pipeline.settings`. Several threads may ask; their calls run one by one.

    Attributes
    ----------
    llm: the model.
    method: the method.
    """

    def __init__(self, encoding: Encoding, method: Method) -> None:
        check_method(method)
        self.llm = encoding.llm
        self.method = method
        self._encoding = encoding
        layers: Any = self.llm.family.decoder.layers
        planned = plan(method, len(layers))
        self._scale = None if planned.before is None else planned.retention / planned.before.retention
        self._shares_prefix = shares_prefix(planned)
        self._repeats = not getattr(planned.before, "reads_question", False)
        self._features: UnprunedFeatures | None = None
        self._refresh()

    @property
    def frames(self) -> Frames:
        """The decoded frames."""
        return self._encoding.source.frames()

    @property
    def video(self) -> VideoReport | None:
        """Token counts and notes of the video; None if nothing but its features is shared, see the class."""
        return None if self._prefilled is None else self._prefilled.video

    def with_method(self, method: str | Method = "tango", retention: float | None = None) -> "EncodedClip":
        """The same video under another method or retention.

        It shares the features. The vision encoder runs again only if the method needs signals that no method on this
        video has needed so far. Features that were encoded for a method before the language model in several chunks of
        frames equal those of the stock model up to rounding, also for retention 1.0.

        Parameters
        ----------
        method, retention: see `tangovlm.ask`.

        Raises
        ------
        TangoError: see `VideoLLM.encode`.
        """
        return EncodedClip(self._encoding, resolve_method(method, retention))

    def ask(
        self,
        question: str,
        *,
        history: Sequence[tuple[str, str]] = (),
        max_new_tokens: int = 64,
        progress: Progress | None = None,
        on_text: TextSoFar | None = None,
    ) -> Answer:
        """Answer a question about the video, by greedy search.

        Parameters
        ----------
        history: earlier questions and answers of a conversation, which the prompt repeats.
        max_new_tokens: the largest number of tokens of the answer.
        progress: called with the stage "generate", the number of tokens so far and their largest number.
        on_text: see `tangovlm.ask`.

        Returns
        -------
        The answer. Its `timings_ms` are those of a question alone; `Answer.shared_ms` says which part of them was spent
        once for all answers.

        Raises
        ------
        InputError: an empty question, a prompt that exceeds the context of the model, NaN in the output of the model,
            or a history with a checkpoint that has no chat template.

        Examples
        --------
        >>> import tangovlm, torch
        >>> pixels = torch.zeros(8, 3, 64, 64, dtype=torch.uint8)
        >>> frames = Frames(pixels, torch.arange(8, dtype=torch.float64), fps=1.0, duration_s=8.0)
        >>> clip = tangovlm.load().encode(frames, retention=0.1)
        >>> [clip.ask(question, max_new_tokens=1).tokens_after for question in ("What happens?", "Where?")]
        [51, 51]
        """
        check_question(question)
        history = check_history(history)
        check_max_new_tokens(max_new_tokens)
        self._refresh()
        inputs = self._encoding.inputs(question, history)
        answer = self._ask([inputs], self._continued(), max_new_tokens, progress, on_text)[0]
        if history and self.llm.builtin:
            answer.notes = (*answer.notes, FOLLOW_UP_NOTE)
        return answer

    def ask_all(
        self, questions: Iterable[str], *, max_new_tokens: int = 64, progress: Progress | None = None
    ) -> list[Answer]:
        """Answer several questions about the video, in batches as far as the method allows it.

        Parameters
        ----------
        max_new_tokens: the largest number of tokens of each answer.
        progress: called with the stage "generate", the number of questions answered and their number.

        Returns
        -------
        One answer for each question, in order. The time that a batch took is divided equally among its answers.

        Raises
        ------
        InputError: see `ask`.
        """
        check_max_new_tokens(max_new_tokens)
        texts = check_questions(questions)
        self._refresh()
        asked = [self._encoding.inputs(question) for question in texts]
        prompts = [inputs[Arg.IDS] for inputs in asked]
        prefilled = self._continued()
        if prefilled is not None:
            for ids in prompts:
                prefilled.prefix.check_length(ids)
        # In this order, little is padded.
        order = sorted(range(len(asked)), key=lambda place: prompts[place].shape[1])
        answers: dict[int, Answer] = {}
        report = progress or no_progress
        while len(answers) < len(asked):
            report("generate", len(answers), len(asked))
            left = order[len(answers) :]
            count = 1
            if prefilled is not None:
                support = Support.of(self.llm.model.generation_config)
                count = prefilled.prefix.at_once([prompts[place] for place in left], max_new_tokens, support)
            batch = left[:count]
            found = self._ask([asked[place] for place in batch], prefilled, max_new_tokens)
            answers |= zip(batch, found, strict=True)
        report("generate", len(asked), len(asked))
        return [answers[place] for place in range(len(asked))]

    def _continued(self) -> Prefilled | None:
        """What prompts continue from; None if the generation config of the model does not allow it."""
        return self._prefilled if Support.of(self.llm.model.generation_config).continues else None

    def _ask(
        self,
        asked: Sequence[dict[str, Tensor]],
        prefilled: Prefilled | None,
        max_new_tokens: int,
        progress: Progress | None = None,
        on_text: TextSoFar | None = None,
    ) -> list[Answer]:
        """Answers to prompts, which begin with the prefix if there are several."""
        prompts = [inputs[Arg.IDS] for inputs in asked]
        given: dict[str, Any] = asked[0]
        if prefilled is not None and not prefilled.prefix.begins(prompts[0]):
            prefilled = None
        with self._attached() as session, kept_rope_deltas(self.llm.family):
            if prefilled is not None:
                prefilled.prefix.check_length(prompts[0])
                given = prefilled.prefix.arguments(prompts)
            # `generate` has a streamer for a single prompt only.
            streamer = None
            if progress is not None or on_text is not None:
                streamer = streamer_of(self.llm, progress or no_progress, max_new_tokens, True, on_text)
            output = generate(self.llm, given, max_new_tokens, streamer)
        rows: list[list[int]] = output[:, given[Arg.IDS].shape[1] :].tolist()
        texts = [answer_text(self.llm, row) for row in rows]
        return [answer_in_batch(text, session, self._encoding, prefilled, len(rows)) for text in texts]

    def _refresh(self) -> None:
        """Encode and prune the video, if that was not done yet or the model was changed since."""
        encoding = self._encoding
        encoding.refresh()
        if self._features is encoding.features:
            return
        self._memo = Memo(encoding.features, repeats=self._repeats)
        self._prefilled: Prefilled | None = None
        with self._attached() as session:
            if self._shares_prefix and Support.of(self.llm.model.generation_config).continues:
                self._prefilled = self._prefill(session)
        self._features = encoding.features

    # --- the model ------------------------------------------------------------------------------------------------

    def _attached(self) -> Any:
        encoding = self._encoding
        return attach_family(
            self.llm.family,
            self.method,
            timestamps=encoding.source.timestamps_s,
            in_turn=True,
            memo=self._memo,
            **encoding.options,
        )

    def _prefill(self, session: Session) -> Prefilled | None:
        """Encode and prune the video, and read the prompt up to its end."""
        encoding, family = self._encoding, self.llm.family
        inputs = encoding.inputs(_ANY_QUESTION)
        length = prefix_length(family, inputs[Arg.IDS])
        inputs |= {name: value[:, :length] for name, value in encoding.words(inputs).items()}
        (clip,) = encoder_clips(family, inputs, encoding.source.timestamps_s)
        with kept_rope_deltas(family):
            output = generate(self.llm, inputs, 1, return_dict_in_generate=True)
            prefix = Prefix.of(family, inputs[Arg.IDS], cache_in(output), clip.grid, self._scale)
        if prefix is None:
            return None
        report = session.report
        record = session.videos[0] if session.videos else None
        return Prefilled(prefix, report.videos[0], report.notes, encoding.timings(report.timings_ms), record)
