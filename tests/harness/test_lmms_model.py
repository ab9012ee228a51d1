"""The model of lmms-eval in this process: how it is found, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tangovlm.errors import InputError
from tangovlm.evaluate.harness import versions
from tangovlm.evaluate.harness.lmms.plugin import NAMES
from tangovlm.evaluate.harness.records import Records
from tangovlm.evaluate.harness.settings import Settings
from tests.harness.lmms_runs import needs_lmms_eval

pytestmark = [needs_lmms_eval, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def classes() -> Any:
    from tangovlm.evaluate.harness.lmms import model as lmms_eval

    return lmms_eval


def test_the_entry_point_gives_the_model_and_its_aliases() -> None:
    from lmms_eval.models import MODEL_REGISTRY_V2 as REGISTRY

    assert REGISTRY.get_manifest("tangovlm").aliases == tuple(NAMES)
    for name in ("tangovlm", *NAMES):
        assert not REGISTRY.get_model_class(name).is_simple
    assert REGISTRY.get_model_class("tango_llava_video").families == ("llava-video",)


def refused(call: Callable[[], Any], capsys: pytest.CaptureFixture[str], message: str) -> None:
    """A call that ends the process with one line and status 2."""
    with pytest.raises(SystemExit) as caught:
        call()
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("error: ") and message in line


@pytest.mark.parametrize(
    ("alias", "given", "message"),
    [
        ("TangoVLM", {}, "pretrained is missing"),
        ("TangoVLM", {"pretrained": "./nowhere"}, "nowhere"),
        ("TangoVLM", {"pretrained": "tangovlm-tiny", "method": "tangi"}, "unknown method"),
        ("TangoVLM", {"pretrained": "tangovlm-tiny", "batch_size": "auto"}, "batch_size is 'auto'"),
        ("TangoVLM", {"pretrained": "tangovlm-tiny", "backend": "vllm"}, "vLLM is not installed"),
        ("TangoLlavaVideo", {"pretrained": "tangovlm-tiny"}, "of the family llava-onevision, not of llava-video"),
        ("TangoQwen3VL", {"pretrained": "tangovlm-tiny"}, "of the family llava-onevision, not of qwen3-vl"),
    ],
)
def test_arguments_that_do_not_fit(
    classes: Any, capsys: pytest.CaptureFixture[str], alias: str, given: dict[str, Any], message: str
) -> None:
    refused(lambda: getattr(classes, alias)(**given), capsys, message)


def test_another_familys_checkpoint_in_vllm(
    classes: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classes, "load_backend", lambda _settings: object())
    given = {"pretrained": "tangovlm-tiny", "backend": "vllm"}
    refused(lambda: classes.TangoQwen3VL(**given), capsys, "of the family llava-onevision, not of qwen3-vl")
    assert classes.TangoLlavaOnevision(**given).settings.backend == "vllm"


@pytest.mark.parametrize(
    ("given", "message"), [({"backend": "vllm"}, "tensor_parallel_size=2"), ({"device_map": "auto"}, "leave out")]
)
def test_what_one_process_does(classes: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        classes._process_settings(Settings("tangovlm-tiny", **given), 2, "cuda:1")
    assert classes._process_settings(Settings("tangovlm-tiny"), 2, "cuda:1").device == "cuda:1"


def instance(content: list[dict[str, Any]], options: dict[str, Any] | None = None) -> Any:
    """A request of lmms-eval with a conversation of one turn."""
    messages = [{"role": "user", "content": content}]
    arguments = ("context", lambda _doc: messages, options or {"max_new_tokens": 4}, 0, "task", "test")
    return SimpleNamespace(args=arguments, task_name="task")


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ([{"type": "image", "url": "a.jpg"}], None, "question 0 of task has images"),
        ([{"type": "audio", "url": "a.wav"}], None, "question 0 of task has sound"),
        ([{"type": "video", "url": "a.mp4", "start_time": 1.0}], None, "a part of a video"),
        ([{"type": "text", "text": "Why?"}], {"typical_p": 0.5}, "typical_p=0.5 is not supported"),
        ([{"type": "video", "url": "missing.mp4"}, {"type": "text", "text": "Why?"}], None, "missing.mp4"),
    ],
)
def test_questions_that_are_not_answered(
    classes: Any,
    capsys: pytest.CaptureFixture[str],
    content: list[dict[str, Any]],
    options: dict[str, Any] | None,
    message: str,
) -> None:
    model = classes.TangoVLM(pretrained="tangovlm-tiny")
    model.task_dict = {"task": {"test": [None]}}
    refused(lambda: model.generate_until([instance(content, options)]), capsys, message)
    for asked in (model.loglikelihood, model.generate_until_multi_round):
        refused(lambda asked=asked: asked([instance(content)]), capsys, "choose a task of generate_until")


def test_records_of_other_settings(classes: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from tests.evaluate.harness.test_records import record

    with Records(tmp_path, Settings("tangovlm-tiny", retention=0.2)) as records:
        records.add(record(0))
    given = {"pretrained": "tangovlm-tiny", "records": str(tmp_path)}
    refused(lambda: classes.TangoVLM(**given), capsys, "other settings: retention was 0.2")


def test_a_system_prompt_stands_in_front(classes: Any) -> None:
    model = classes.TangoVLM(pretrained="tangovlm-tiny", system_prompt="Be short.")
    model.task_dict = {"task": {"test": [None]}}
    _task, _doc, request = model._request(instance([{"type": "text", "text": "Why?"}]))
    assert [turn["role"] for turn in request.conversation] == ["system", "user"]


@pytest.mark.parametrize(
    ("found", "fits"),
    [("0.7.3", True), ("0.7.4", True), ("0.7.3.post1", True), ("0.7.2", False), ("0.8.0", False), ("1.7.3", False)],
)
def test_releases_that_are_tested(monkeypatch: pytest.MonkeyPatch, found: str, fits: bool) -> None:
    monkeypatch.setattr(versions, "version", lambda _name: found)
    if fits:
        versions.check("lmms-eval")
        return
    with pytest.raises(InputError, match=rf"lmms-eval {found} is not tested .* pip install lmms-eval==0\.7\.3"):
        versions.check("lmms-eval")
