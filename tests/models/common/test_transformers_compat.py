"""One file names the arguments of stock models, so that a renamed one is looked up, refused or changed in one place."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import tangovlm
from tangovlm.errors import ModelError
from tangovlm.models.common.transformers_compat import Arg, Signature, cache_for, cache_in, check_since, value_of
from tangovlm.registry import family_for
from tangovlm.selfcheck.twins import twins

ROOT = Path(tangovlm.__file__).parent
# These are words of many other meanings.
NAMES = {name for place, name in vars(Arg).items() if place.isupper()} - {Arg.CACHE, Arg.INPUTS, Arg.LABELS}
NAMES |= {"past_key_values"}
# Fields of a config, which have the names of arguments that override them.
FIELDS = {Arg.ASPECT_RATIO, Arg.FEATURE_LAYER, Arg.FEATURE_STRATEGY, Arg.USE_CACHE}
CONFIGS = {"bench/server/model.py", "checkpoints/llava_original.py", "tiny/export.py"}


def spelled(source: str, fields: bool) -> list[str]:
    """Names of arguments in strings and in calls of something else than our own functions."""
    tree = ast.parse(source)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    own = {"CallContext", "Prompt", "begun"}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in NAMES and id(node) not in docstrings:
            found.append(str(node.value))
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name not in own and not name.endswith("Config"):
                found += [word.arg for word in node.keywords if word.arg in NAMES]
    return [name for name in found if not (fields and name in FIELDS)]


def test_the_search_finds_what_it_is_meant_to() -> None:
    assert sorted(spelled('x["pixel_values"]; model(use_cache=True)', False)) == ["pixel_values", "use_cache"]
    assert spelled('"""pixel_values"""', False) == []


def test_only_the_seam_names_an_argument() -> None:
    files = {path.relative_to(ROOT).as_posix(): path for path in sorted(ROOT.rglob("*.py"))}
    assert len(files) > 300
    del files["models/common/transformers_compat.py"]
    found = {place: spelled(path.read_text(encoding="utf-8"), place in CONFIGS) for place, path in files.items()}
    assert {place: names for place, names in found.items() if names} == {}


@pytest.mark.parametrize("name", twins())
def test_every_name_is_an_argument_of_the_installed_release(name: str) -> None:
    """What the seam knows is what the models take."""
    model = twins()[name]().model
    family = family_for(model)(model)
    for function in (model.forward, family.encoder.forward, family.decoder.forward):
        assert Signature(function, "it", (Arg.EMBEDS, Arg.MASK, Arg.POSITIONS, Arg.CACHE, Arg.IDS)).names
    taken = inspect.signature(model.forward).parameters
    assert set(family.visual_inputs) <= set(taken)


def test_a_name_that_nobody_knows_is_refused() -> None:
    def forward(inputs_embeds: object = None, kv_store: object = None) -> None: ...

    with pytest.raises(ModelError, match=r"the text model of transformers .* has no argument 'cache', but .*kv_store"):
        Signature(forward, "the text model", (Arg.CACHE,))


def test_both_spellings_are_read() -> None:
    def older(ids: object, past_key_values: object = None) -> None: ...

    def newer(ids: object, cache: object = None) -> None: ...

    for function, own in ((older, "past_key_values"), (newer, "cache")):
        signature = Signature(function, "it", (Arg.CACHE,))
        assert cache_for(function, 3) == {own: 3}
        for given in ({"cache": 3}, {"past_key_values": 3}):
            assert signature.get(Arg.CACHE, (1,), given) == 3
            assert signature.changed((1,), given, {Arg.CACHE: 4}) == ((1,), {own: 4})
        assert signature.changed((1, 3), {}, {Arg.CACHE: 4}) == ((1, 4), {})
        assert cache_in({own: 3}) == 3
    assert value_of({}, Arg.CACHE) is None


def test_a_release_that_lacks_a_family_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for installed in ("5.21.0", "5.30.0.dev0", "6.0.1"):
        monkeypatch.setattr("transformers.__version__", installed)
        check_since("5.21", "qwen2.5-omni")
    monkeypatch.setattr("transformers.__version__", "5.9.2")
    with pytest.raises(ModelError, match=r"the family qwen2\.5-omni needs transformers 5\.21 or newer, not 5\.9\.2"):
        check_since("5.21", "qwen2.5-omni")
