"""The internals of vLLM that the plug-in uses: a release that changed one is refused. vLLM need not be installed."""

import ast
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import tangovlm.batch
import tangovlm.serve
from tangovlm.errors import ModelError
from tangovlm.serve import compatibility
from tangovlm.serve import model_registry as models
from tangovlm.serve.internals import check
from tangovlm.serve.internals import table as internals
from tangovlm.serve.plugin import OtherModelConfig, ServedModelConfig, register

HOST = """
import functools

def compiled(cls):
    made = cls.__init__
    def __init__(self, config):
        made(self, config)
    cls.__init__ = __init__
    return cls

class Parser:
    def __init__(self, *, metadata=False, size=None):
        self.metadata = metadata
    def video(self, video):
        return video
    def load(self, url, reader, *, timeout=None):
        return url

@compiled
class Block:
    def __init__(self, config):
        self.attention = config
    def forward(self, x, cos, sin):
        return x

class Model(Parser):
    def positions(self, ids, features):
        return ids
    def counts(self, *, modality, embeds):
        return modality

class Runner:
    def load_model(self):
        self.pruning = self.model.moves
"""
TABLE = """
[host]
vllm.host
    have     Model.positions
    call     Parser(*, metadata, size)
    replace  Parser.video(video)
    replace  Parser.load(url, ...)
    hold     Block(attention)
    hold     Model(metadata)
    hook     Block.forward(cos, sin)
    replace  Model.positions(ids, features)
    call     Model.positions(ids, *, features)
    replace  Model.counts(*, modality, embeds)
    use      Runner.load_model(moves)
"""


@pytest.fixture(autouse=True)
def _nothing_remembered() -> Iterator[None]:
    compatibility.first_problem.cache_clear()
    compatibility.check_at_startup.cache_clear()
    yield
    compatibility.first_problem.cache_clear()
    compatibility.check_at_startup.cache_clear()


def module(monkeypatch: pytest.MonkeyPatch, name: str, source: str = "", **more: Any) -> ModuleType:
    """A module of a vLLM that is not there."""
    made = ModuleType(name)
    exec(source, made.__dict__)
    made.__dict__.update(more)
    monkeypatch.setitem(sys.modules, name, made)
    return made


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table of this file in place of the real one."""
    found = internals.parse_table(TABLE)
    monkeypatch.setattr(compatibility, "groups", lambda: found)
    module(monkeypatch, "vllm")


@pytest.mark.usefixtures("table")
def test_a_release_as_it_should_be(monkeypatch: pytest.MonkeyPatch) -> None:
    module(monkeypatch, "vllm.host", HOST)
    assert {state for _, state in compatibility.check_internals()} == {"OK"}
    assert [name for name, _ in compatibility.check_internals("host")][:2] == [
        "vllm.host.Model.positions",
        "vllm.host.Parser",
    ]
    compatibility.require_internals("host")


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize(
    ("before", "after", "wrong"),
    [
        ("def positions(self, ids, features)", "def places(self, ids, features)", "has no vllm.host.Model.positions"),
        ("metadata=False, size=None", "metadata=False", "has a vllm.host.Parser without 'size'"),
        ("size=None):", "size=None, rate):", "has a vllm.host.Parser that needs 'rate' too"),
        ("def video(self, video)", "def video(self, clip)", "Parser.video that takes (clip) and not (video)"),
        ("def video(self, video)", "def video(self, video, fps=1)", "that takes (video, fps) and not (video)"),
        ("def load(self, url, reader", "def load(self, reader, url", "Parser.load that takes (reader) and not (url)"),
        ("self.attention = config", "self.attn = config", "has a vllm.host.Block without 'attention'"),
        ("self.metadata = metadata", "self.told = metadata", "has a vllm.host.Model without 'metadata'"),
        ("x, cos, sin", "x, rotary", "has a vllm.host.Block.forward without 'cos'"),
        ("ids, features", "features, ids", "that takes (features, ids) and not (ids, features)"),
        ("*, modality, embeds", "modality, embeds", "that takes (modality, embeds) and not ()"),
        ("*, modality, embeds", "*, modality, tokens", "that takes (modality, tokens) and not (embeds, modality)"),
        ("self.model.moves", "False", "has a vllm.host.Runner.load_model that does not ask for 'moves'"),
        ("class Runner:", "Block = 3\nclass Runner:", "has a vllm.host.Block that is not what it was"),
        ("import functools", "import no_such_module", "has no module vllm.host that can be imported"),
    ],
)
def test_a_changed_part_is_refused_by_name(
    before: str, after: str, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(name: str) -> ModuleType:
        made = ModuleType(name)
        exec(HOST.replace(before, after), made.__dict__)
        return made

    assert HOST.count(before) == 1
    monkeypatch.setattr(check, "import_module", changed)
    with pytest.raises(ModelError) as error:
        compatibility.require_internals("host")
    assert wrong in str(error.value)
    assert "tested with vLLM 0.32" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("release", "tested"),
    [("0.32.0", True), ("0.32.1+cpu", True), ("0.32", True), ("0.33.0", False), ("0.320", False), ("(unknown)", False)],
)
def test_tested_releases(release: str, tested: bool) -> None:
    assert compatibility.is_tested(release) is tested


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("release", ["0.33.0", "0.32.0"])
def test_an_untested_release_is_said_once(release: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    logger = SimpleNamespace(warning=lambda words, *values: said.append(words % values))
    module(monkeypatch, "vllm.host", HOST)
    module(monkeypatch, "vllm.logger", init_logger=lambda _name: logger)
    monkeypatch.setattr(compatibility, "installed_release", lambda: release)
    for _ in range(3):
        compatibility.check_at_startup("host")
    assert len(said) == (0 if release == "0.32.0" else 1)
    assert all("vLLM 0.33.0 is not tested" in line for line in said)


def test_without_vllm_every_part_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    for name in [name for name in sys.modules if name.startswith("vllm.")]:
        monkeypatch.setitem(sys.modules, name, None)
    assert all("can be imported" in state for _, state in compatibility.check_internals())


def test_an_import_that_fails_is_told_by_name() -> None:
    with (
        pytest.raises(ModelError, match="cannot import name 'gone'.* tested with vLLM"),
        compatibility.importing_vllm(),
    ):
        raise ImportError("cannot import name 'gone'")


# --- servers on an incompatible release ---------------------------------------------------------------------------

ARCHITECTURE = "LlavaOnevisionForConditionalGeneration"


def config(tango: object = None) -> Any:
    """As far as the start-up looks at it."""
    hf_config = SimpleNamespace(tango=tango) if tango is not None else SimpleNamespace()
    return SimpleNamespace(hf_config=hf_config, architecture=ARCHITECTURE)


@pytest.fixture
def stock(monkeypatch: pytest.MonkeyPatch) -> type:
    """The model of a vLLM whose other parts are all missing."""

    class Stock:
        def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
            self.prefix = prefix

    Stock.__name__ = ARCHITECTURE
    name = "vllm.model_executor.models.llava_onevision"
    for part in ("vllm", "vllm.model_executor", "vllm.model_executor.models"):
        module(monkeypatch, part)
    module(monkeypatch, name, **{ARCHITECTURE: Stock})
    return Stock


def test_a_broken_release_serves_without_pruning(stock: type) -> None:
    found = getattr(models, ARCHITECTURE)
    assert issubclass(found, stock)
    assert found.__name__ == ARCHITECTURE
    assert found(vllm_config=SimpleNamespace(model_config=config()), prefix="a").prefix == "a"
    assert ServedModelConfig.verify_and_update_model_config(config()) is None


@pytest.mark.usefixtures("stock")
def test_a_broken_release_refuses_to_prune() -> None:
    with pytest.raises(ModelError, match=r"has no vllm\.ModelRegistry\.register_model, which tangovlm's plug-in"):
        ServedModelConfig.verify_and_update_model_config(config({"retention": 0.1}))
    with pytest.raises(ModelError, match=r"has no vllm\.ModelRegistry\.register_model, which tangovlm's plug-in"):
        getattr(models, ARCHITECTURE)(vllm_config=SimpleNamespace(model_config=config({"retention": 0.1})))


def test_a_model_that_is_not_served_is_refused_before_vllms_own_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []

    class Hook:
        @staticmethod
        def verify_and_update_model_config(model_config: Any) -> None:
            called.append(model_config)

        @staticmethod
        def verify_and_update_config(vllm_config: Any) -> None:
            called.append(vllm_config)

    hooks: dict[str, Any] = {"WithHook": Hook, "Qwen3_5ForConditionalGeneration": Hook}
    registry = SimpleNamespace(
        register_model=lambda *_words: None, get_supported_archs=lambda: [*hooks, "Without", ARCHITECTURE]
    )
    module(monkeypatch, "vllm", ModelRegistry=registry)
    for part in ("vllm.model_executor", "vllm.model_executor.models"):
        module(monkeypatch, part)
    module(monkeypatch, "vllm.model_executor.models.config", MODELS_CONFIG_MAP=hooks)
    register()
    once = dict(hooks)
    register()
    assert hooks == once
    assert hooks["Without"] is OtherModelConfig
    assert hooks[ARCHITECTURE] is ServedModelConfig
    assert issubclass(hooks["WithHook"], Hook)
    plain, pruned = config(), config({})
    hooks["WithHook"].verify_and_update_model_config(plain)
    hooks["WithHook"].verify_and_update_config(1)
    assert called == [plain, 1]
    with pytest.raises(ModelError, match="cannot prune videos"):
        hooks["WithHook"].verify_and_update_model_config(pruned)
    assert called == [plain, 1]
    # vLLM has one for this served model.
    assert issubclass(hooks["Qwen3_5ForConditionalGeneration"], ServedModelConfig)
    hooks["Qwen3_5ForConditionalGeneration"].verify_and_update_model_config(plain)
    assert called == [plain, 1, plain]


# --- the table ----------------------------------------------------------------------------------------------------


def imported() -> list[tuple[str, str]]:
    """Imports of the plug-in from vLLM, by module and name."""
    found = []
    folders = [Path(package.__file__).parent for package in (tangovlm.serve, tangovlm.batch)]
    for path in chain.from_iterable(folder.rglob("*.py") for folder in folders):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vllm":
                found += [(str(node.module), alias.name) for alias in node.names]
    return found


def test_whatever_is_imported_stands_in_the_table() -> None:
    parts = [internal for group in internals.groups().values() for internal in group]
    names = {(internal.module, internal.name.split(".")[0]) for internal in parts}
    modules = {internal.module for internal in parts}
    found = imported()
    assert len(found) > 20
    missing = [each for each in found if each not in names and ".".join(each) not in modules]
    assert missing == []


def test_models_name_groups_of_the_table() -> None:
    for model in models.SERVED_MODELS.values():
        assert set(model.groups) <= set(internals.groups())
    with pytest.raises(AttributeError, match="NoSuchModel"):
        _ = models.NoSuchModel
