"""The model `tangovlm` of lmms-eval, which passes its requests to the shared core; see docs/harnesses.md."""

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

from ..answerer import Answerer, Backend, load_backend
from ..records import Record, Records, request_key
from ..requests import STAGES, Completion, GenerationOptions, Request
from ..settings import Settings
from ..versions import check


class TangoVLM(lmms):
    """A chat model of lmms-eval: any family that `tangovlm.load` supports, with any method.

    Parameters
    ----------
    batch_size, device: lmms-eval's own options.
    max_batch_size: not used by this model.
    records: folder of `records.Records`, whose questions are not asked again; None for no records.
    system_prompt: text of a system turn before every conversation, or a file with the text.
    arguments: see `Settings.read`.

    An invalid argument ends the run with one line and exit status 2.
    """

    is_simple = False
    families: ClassVar[tuple[str, ...]] = ()
    """Families whose checkpoints are accepted; empty for all."""

    def __init__(
        self,
        batch_size: int | str = 1,
        device: str | None = None,
        max_batch_size: int | None = None,
        records: str | None = None,
        system_prompt: str | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__()
        del max_batch_size
        with _exit_on_error():
            check("lmms-eval")
            self.accelerator = Accelerator()
            self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
            self.settings = Settings.read(batch_size=batch_size, device=device, **arguments)
            if self._world_size > 1:
                self.settings = _process_settings(self.settings, self._world_size, str(self.accelerator.device))
            self._backend: Backend | None = load_backend(self.settings)
            self._check_family()
            self._system = None if system_prompt is None else self._resolve_system_prompt(str(system_prompt))
            self._records: Records | None = None
            if records is not None:
                about = {"harness": "lmms-eval", **machine(self.accelerator.device)}
                self._records = Records(Path(str(records)).expanduser(), self.settings, self._rank, about)

    @property
    def device(self) -> Any:
        """The device on which lmms-eval gathers results of several processes."""
        return self.accelerator.device

    # --- interface of lmms-eval -----------------------------------------------------------------------------------

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answers, in the order of the requests."""
        with _exit_on_error():
            return self._generate(requests)

    def loglikelihood(self, requests: list[Instance]) -> NoReturn:
        """Refused: only generated answers are supported."""
        _refuse("loglikelihood", requests)

    def generate_until_multi_round(self, requests: list[Instance]) -> NoReturn:
        """Refused: only generated answers are supported."""
        _refuse("generate_until_multi_round", requests)

    def clean(self) -> None:
        """Free the model's memory after the last request."""
        self._backend = None
        super().clean()

    # --- answers --------------------------------------------------------------------------------------------------

    def _generate(self, instances: Sequence[Instance]) -> list[GenerationResult]:
        if self._backend is None:
            raise InputError("the model was cleaned up: start another run")
        requests = [self._request(instance) for instance in instances]
        keys = [request_key(task, doc, request) for task, doc, request in requests]
        known = {} if self._records is None else self._records.known
        # lmms-eval repeats questions so that all processes have equally many.
        missing = {key: index for index, key in enumerate(keys) if key not in known}
        completions = {key: known[key].completion for key in keys if key in known}
        order, new = list(missing.items()), []
        with tqdm(total=len(keys), initial=len(keys) - len(missing), desc="tangovlm", disable=self.rank != 0) as bar:

            def on_completion(number: int, completion: Completion) -> None:
                key, index = order[number]
                task, doc, _request = requests[index]
                completions[key] = completion
                new.append(completion)
                if self._records is not None:
                    self._records.add(Record(task, str(doc), key, completion))
                bar.update()

            self._backend.answer([requests[index][2] for _key, index in order], on_completion)
        if new:
            log_metrics(**metrics(new, self.rank))
        results = []
        for instance, key in zip(instances, keys, strict=True):
            completion = completions[key]
            counts = TokenCounts(input_tokens=completion.read_tokens, output_tokens=completion.output_tokens)
            results.append(GenerationResult(completion.text, counts))
            self.cache_hook.add_partial("generate_until", (instance.args[0], instance.args[2]), completion.text)
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
        return task, doc_id, Request(conversation=turns, options=GenerationOptions.read(options))

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
                f"{self.settings.pretrained} is a checkpoint of the family {name}, not of {self.families[0]}: use "
                "--model tangovlm, which supports every family"
            )


class TangoLlavaOnevision(TangoVLM):
    """Accepts checkpoints of LLaVA-OneVision only."""

    families = ("llava-onevision",)


class TangoLlavaVideo(TangoVLM):
    """Accepts checkpoints of LLaVA-Video only."""

    families = ("llava-video",)


class TangoQwen2VL5(TangoVLM):
    """Accepts checkpoints of Qwen2.5-VL only."""

    families = ("qwen2.5-vl",)


class TangoQwen3VL(TangoVLM):
    """Accepts checkpoints of Qwen3-VL only."""

    families = ("qwen3-vl",)


def _process_settings(settings: Settings, processes: int, device: str) -> Settings:
    """The settings of one of several processes, each with a model on its own device."""
    if settings.backend == "vllm":
        raise InputError(
            "backend=vllm runs in one process: leave out accelerate launch, and spread the engine itself over the "
            f"GPUs, such as with vllm_tensor_parallel_size={processes}"
        )
    if settings.device_map is not None:
        raise InputError(
            f"device_map={settings.device_map} spreads a model over all devices, and {processes} processes would each "
            "do so: leave out accelerate launch, or device_map"
        )
    return settings if settings.device is not None else replace(settings, device=device)


def metrics(answers: Sequence[Completion], rank: int) -> dict[str, Any]:
    """Arguments of `log_metrics`: totals over the answers, and means as additional metrics.

    All means are over questions; a question that shared an encoding contributes 0 to `ms_decode`, `ms_encode` and
    `ms_prune`.
    """
    count = len(answers)
    seconds = sum(sum(each.times_ms.values()) for each in answers) / 1000
    generated = sum(each.output_tokens for each in answers)
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
        "total_gen_tokens": generated,
        "avg_speed": generated / seconds if seconds else 0.0,
        "additional_metrics": additional,
    }


def _mean(answers: Sequence[Completion], stage: str) -> float:
    return sum(each.times_ms.get(stage, 0.0) for each in answers) / len(answers)


def _parts(message: Any, where: str) -> list[Mapping[str, Any]]:
    """The content of a turn of lmms-eval in the form of `Request.conversation`."""
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
    with _exit_on_error():
        raise InputError(f"{task} needs {what}, which tangovlm does not provide: choose a task of generate_until")
    raise AssertionError


@contextmanager
def _exit_on_error() -> Iterator[None]:
    """Print an error by the user as one line and exit with status 2; lmms-eval would print a traceback."""
    try:
        yield
    except TangoError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None
