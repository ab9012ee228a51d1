"""The model `tangovlm` of lmms-eval: what it asks becomes requests of the shared core; see docs/harnesses.md."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from lmms_eval.protocol import ChatMessages
from tqdm import tqdm

from tangovlm.checkpoints.checkpoint import architecture
from tangovlm.errors import InputError, TangoError
from tangovlm.pipeline.load import BUILTIN
from tangovlm.registry import family_for
from tangovlm.report.provenance import machine

from ..answerer import Answerer, Backend, make
from ..records import Record, Records, key_of
from ..requests import STAGES, Answered, Limits, Request
from ..settings import Settings
from ..versions import check


class TangoVLM(lmms):
    """A chat model of lmms-eval: any family that `tangovlm.load` loads, with any method.

    Parameters
    ----------
    batch_size, device: as lmms-eval gives them from its own options.
    max_batch_size: not used by this model.
    records: folder of `records.Records`; what is in it is not asked again. None for none.
    system_prompt: text, or the file with the text, of a system turn in front of every conversation.
    given: see `Settings.read`.

    A mistake in any of these ends the run with one line and status 2.
    """

    is_simple = False
    families: ClassVar[tuple[str, ...]] = ()
    """Families whose checkpoints may be loaded; all where there are none."""

    def __init__(
        self,
        batch_size: int | str = 1,
        device: str | None = None,
        max_batch_size: int | None = None,
        records: str | None = None,
        system_prompt: str | None = None,
        **given: Any,
    ) -> None:
        super().__init__()
        del max_batch_size
        with _one_line():
            check("lmms-eval")
            self.accelerator = Accelerator()
            self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
            self.settings = Settings.read(batch_size=batch_size, device=device, **given)
            if self._world_size > 1:
                self.settings = _of_one_process(self.settings, self._world_size, str(self.accelerator.device))
            self._backend: Backend | None = make(self.settings)
            self._check_family()
            self._system = None if system_prompt is None else self._resolve_system_prompt(str(system_prompt))
            self._records: Records | None = None
            if records is not None:
                about = {"harness": "lmms-eval", **machine(self.accelerator.device)}
                self._records = Records(Path(str(records)).expanduser(), self.settings, self._rank, about)

    @property
    def device(self) -> Any:
        """Where lmms-eval may put what it sends between processes."""
        return self.accelerator.device

    # --- what lmms-eval asks --------------------------------------------------------------------------------------

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answers, in the order of the requests."""
        with _one_line():
            return self._generate(requests)

    def loglikelihood(self, requests: list[Instance]) -> NoReturn:
        """Refused: the pruned model is asked for answers in words only."""
        _refuse("loglikelihood", requests)

    def generate_until_multi_round(self, requests: list[Instance]) -> NoReturn:
        """Refused."""
        _refuse("generate_until_multi_round", requests)

    def clean(self) -> None:
        """Give the model's memory back once all is answered."""
        self._backend = None
        super().clean()

    # --- how it is answered ---------------------------------------------------------------------------------------

    def _generate(self, instances: Sequence[Instance]) -> list[GenerationResult]:
        if self._backend is None:
            raise InputError("the model was cleaned up: start another run")
        asked = [self._request(instance) for instance in instances]
        keys = [key_of(task, doc, request) for task, doc, request in asked]
        known = {} if self._records is None else self._records.known
        # The same question may be there more than once, as processes are given equally many.
        missing = {key: place for place, key in enumerate(keys) if key not in known}
        found = {key: known[key].answered for key in keys if key in known}
        order, fresh = list(missing.items()), []
        with tqdm(total=len(keys), initial=len(keys) - len(missing), desc="tangovlm", disable=self.rank != 0) as bar:

            def finished(number: int, answered: Answered) -> None:
                key, place = order[number]
                task, doc, _request = asked[place]
                found[key] = answered
                fresh.append(answered)
                if self._records is not None:
                    self._records.add(Record(task, str(doc), key, answered))
                bar.update()

            self._backend.answer([asked[place][2] for _key, place in order], finished)
        if fresh:
            log_metrics(**metrics(fresh, self.rank))
        results = []
        for instance, key in zip(instances, keys, strict=True):
            answered = found[key]
            counts = TokenCounts(input_tokens=answered.read_tokens, output_tokens=answered.output_tokens)
            results.append(GenerationResult(answered.text, counts))
            self.cache_hook.add_partial("generate_until", (instance.args[0], instance.args[2]), answered.text)
        return results

    def _request(self, instance: Instance) -> tuple[str, Any, Request]:
        _context, doc_to_messages, options, doc_id, task, split = instance.args
        messages = ChatMessages(messages=doc_to_messages(self.task_dict[task][split][doc_id]))
        where = f"question {doc_id} of {task}"
        images, _videos, audios = messages.extract_media()
        if images or audios:
            raise InputError(f"{where} has {'images' if images else 'sound'}: only videos and text are supported")
        turns: list[dict[str, Any]] = [
            {"role": each.role, "content": _parts(each, where)} for each in messages.messages
        ]
        if self._system:
            turns.insert(0, {"role": "system", "content": [{"type": "text", "text": self._system}]})
        return task, doc_id, Request(conversation=turns, limits=Limits.read(options))

    def _check_family(self) -> None:
        if not self.families:
            return
        if isinstance(self._backend, Answerer):
            name = self._backend.llm.family.name
        else:
            source = str(self.settings.checkpoint or BUILTIN)
            name = family_for(architecture(source, local=Path(source).exists())).name
        if name not in self.families:
            raise InputError(
                f"{self.settings.pretrained} is a checkpoint of the family {name}, not of {self.families[0]}: take "
                "--model tangovlm, which takes every family"
            )


class TangoLlavaOnevision(TangoVLM):
    """Checkpoints of LLaVA-OneVision only."""

    families = ("llava-onevision",)


class TangoLlavaVideo(TangoVLM):
    """Checkpoints of LLaVA-Video only."""

    families = ("llava-video",)


class TangoQwen2VL5(TangoVLM):
    """Checkpoints of Qwen2.5-VL only."""

    families = ("qwen2.5-vl",)


class TangoQwen3VL(TangoVLM):
    """Checkpoints of Qwen3-VL only."""

    families = ("qwen3-vl",)


def _of_one_process(settings: Settings, processes: int, device: str) -> Settings:
    """The settings of one of several processes, each with a model on a device of its own."""
    if settings.backend == "vllm":
        raise InputError(
            "backend=vllm runs in one process: leave out accelerate launch, and spread the engine itself, such as with "
            f"vllm_tensor_parallel_size={processes}"
        )
    if settings.device_map is not None:
        raise InputError(
            f"device_map={settings.device_map} spreads a model over all devices, and {processes} processes would each "
            "do so: leave out accelerate launch, or device_map"
        )
    return settings if settings.device is not None else replace(settings, device=device)


def metrics(answers: Sequence[Answered], rank: int) -> dict[str, Any]:
    """What `log_metrics` takes: totals of the answers, and as additional metrics their means.

    Means are over questions; `ms_encode` and the like over all questions too, those that shared an encoding with 0.
    """
    count = len(answers)
    seconds = sum(sum(each.times_ms.values()) for each in answers) / 1000
    written = sum(each.output_tokens for each in answers)
    additional: dict[str, Any] = {f"ms_{stage}": _mean(answers, stage) for stage in STAGES}
    additional |= {
        "tokens_before": sum(each.tokens_before for each in answers) / count,
        "tokens_after": sum(each.tokens_after for each in answers) / count,
        "newlines_after": sum(each.newlines_after for each in answers) / count,
        "peak_memory_mb": max(each.peak_bytes for each in answers) / 1e6,
        "encodings_shared": sum(each.shared for each in answers) / count,
        "total_requests": count,
        "rank": rank,
    }
    return {
        "total_elapsed_time": seconds,
        "total_gen_tokens": written,
        "avg_speed": written / seconds if seconds else 0.0,
        "additional_metrics": additional,
    }


def _mean(answers: Sequence[Answered], stage: str) -> float:
    return sum(each.times_ms.get(stage, 0.0) for each in answers) / len(answers)


def _parts(message: Any, where: str) -> list[Mapping[str, Any]]:
    """The content of a turn of lmms-eval as one of ours."""
    parts: list[Mapping[str, Any]] = []
    for part in message.content:
        if part.type == "text":
            parts.append({"type": "text", "text": part.text})
            continue
        if (part.start_time, part.end_time) != (None, None):
            raise InputError(f"{where} asks for a part of a video ({part.start_time} to {part.end_time} s): cut it out")
        parts.append({"type": "video", "video": part.url})
    return parts


def _refuse(what: str, requests: Sequence[Instance]) -> NoReturn:
    task = requests[0].task_name if requests else "a task"
    with _one_line():
        raise InputError(f"{task} wants {what}, which tangovlm does not give: choose a task of generate_until")
    raise AssertionError


@contextmanager
def _one_line() -> Iterator[None]:
    """Ends the process with a mistake of the user's as one line: lmms-eval prints every other error as a traceback."""
    try:
        yield
    except TangoError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None
