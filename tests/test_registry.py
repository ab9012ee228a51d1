"""Look-ups by name, and the public names."""

from dataclasses import dataclass, is_dataclass
from typing import ClassVar

import pytest

import tangovlm
from tangovlm import Tango, registry
from tangovlm.errors import MethodError, ModelError


@pytest.fixture(autouse=True)
def own_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_methods", dict(registry.methods()))
    monkeypatch.setattr(registry, "_families", dict(registry.families()))


def test_method_by_name() -> None:
    assert tangovlm.methods()["tango"] is Tango
    assert tangovlm.method("tango", retention=0.2) == Tango(retention=0.2)
    with pytest.raises(MethodError, match=r"unknown method 'tangle': choose one of .*tango"):
        tangovlm.method("tangle")
    with pytest.raises(MethodError, match="no parameter 'speed'"):
        tangovlm.method("tango", speed=2)


def test_every_method_says_what_it_is() -> None:
    for name, cls in tangovlm.methods().items():
        assert cls.name == name
        assert is_dataclass(cls)
        assert cls.stage in ("pre-llm", "in-llm")
        assert cls.paper == "" or cls.paper.startswith("https://arxiv.org/abs/")
        assert cls.official_repo == "" or "@" in cls.official_repo
        assert tangovlm.method(name).needs <= {"saliency", "timestamps", "frame_features", "keys"}


def test_names_are_not_taken_twice() -> None:
    @dataclass(frozen=True)
    class Other:
        name: ClassVar[str] = "tango"

    with pytest.raises(MethodError, match="taken"):
        registry.register_method(Other)
    with pytest.raises(MethodError, match="taken"):
        registry.register_method(type("Tango", (), {"name": "tango", "__module__": "plugin"}))
    with pytest.raises(MethodError, match="name"):
        registry.register_method(object)


def test_family_by_class_parent_or_name() -> None:
    @registry.register_family("SomeModel", "SomeModelForGeneration")
    class Family:
        pass

    class SomeModel:
        pass

    class Fork(SomeModel):
        pass

    assert registry.family_for(Fork()) is Family
    assert registry.family_for("SomeModelForGeneration") is Family
    with pytest.raises(ModelError, match=r"unsupported architecture dict: supported are .*SomeModel"):
        registry.family_for({})
    with pytest.raises(ModelError, match="taken"):
        registry.register_family("SomeModel")(type("Another", (), {}))


def test_no_other_names() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        tangovlm.nothing  # noqa: B018
