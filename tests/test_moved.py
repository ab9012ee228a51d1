"""Old import paths still work, with a warning that names the new one; the package itself uses none of them."""

import subprocess
import sys
from importlib import import_module

import pytest

from tangovlm._moved import MOVED


@pytest.mark.parametrize("old", MOVED)
def test_an_old_path_gives_the_objects_of_the_new_one(old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    new = import_module(MOVED[old])
    monkeypatch.delitem(sys.modules, old, raising=False)
    with pytest.warns(DeprecationWarning, match=f"{old} has moved to {MOVED[old]}"):
        moved = import_module(old)
    names = [name for name, value in vars(new).items() if getattr(value, "__module__", None) == new.__name__]
    assert names
    assert all(getattr(moved, name) is getattr(new, name) for name in names)
    with pytest.raises(AttributeError, match="nothing"):
        _ = moved.nothing
    assert set(names) <= set(dir(moved))
    imported: dict[str, object] = {}
    exec(f"from {old} import *", imported)
    public = [name for name in names if not name.startswith("_")]
    assert public
    assert all(imported[name] is getattr(new, name) for name in public)


def test_the_classes_of_the_pipeline_are_available_from_its_package() -> None:
    from tangovlm.pipeline import Answer, Processor, VideoLLM, ask, load, processor

    assert (ask.Answer, load.VideoLLM, processor.Processor) == (Answer, VideoLLM, Processor)
    with pytest.raises(ImportError, match="Nothing"):
        from tangovlm.pipeline import Nothing  # noqa: F401


def test_attach_is_the_function_whatever_is_imported() -> None:
    program = """
import tangovlm.session.attach, tangovlm.pipeline.ask, tangovlm.pipeline.load, tangovlm
assert all(type(each).__name__ == "function" for each in (tangovlm.attach, tangovlm.ask, tangovlm.load))
try:
    import tangovlm.attach
except ModuleNotFoundError:
    pass
else:
    raise AssertionError("tangovlm.attach is a module")
assert type(tangovlm.attach).__name__ == "function"
"""
    subprocess.run([sys.executable, "-W", "error::DeprecationWarning", "-c", program], check=True)


def test_other_missing_modules_are_still_missing() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"tangovlm\.nowhere"):
        import_module("tangovlm.nowhere")
