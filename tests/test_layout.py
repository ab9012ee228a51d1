"""The tree keeps its shape: small files, small folders, and methods and families where they are looked for."""

from pathlib import Path

import pytest

from tangovlm import registry

ROOT = Path(__file__).resolve().parent.parent
SOURCE, TESTS = ROOT / "src" / "tangovlm", ROOT / "tests"
FILES = sorted(path for path in SOURCE.rglob("*.py"))
FOLDERS = sorted({path.parent for path in FILES})
# Folders of tests that are no stage of the package.
OTHER_TESTS = {"golden", "harness", "processors", "scripts", "support"}


def test_files_are_short() -> None:
    lengths = {path.relative_to(SOURCE): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert not {str(path): lines for path, lines in lengths.items() if lines > 300}


def test_folders_are_small() -> None:
    # Lists of methods and of families grow with what the library supports; each of their files is read by itself.
    lists = {SOURCE / "methods", SOURCE / "methods" / "in_llm", SOURCE / "models", SOURCE / "selfcheck" / "twins"}
    counts = {folder: sum(path.is_file() for path in folder.iterdir()) for folder in set(FOLDERS) - lists}
    assert not {str(folder.relative_to(ROOT)): count for folder, count in counts.items() if count > 16}


def test_every_folder_is_a_package_that_says_what_it_holds() -> None:
    for folder in FOLDERS:
        first = (folder / "__init__.py").read_text(encoding="utf-8").splitlines()[0]
        assert first.startswith('"""'), folder


@pytest.mark.parametrize("folder", ["methods", "methods/in_llm"])
def test_a_method_is_one_file_and_nothing_lies_beside(folder: str) -> None:
    modules = {path.stem for path in (SOURCE / folder).glob("*.py")} - {"__init__", "build"}
    package = f"tangovlm.{folder.replace('/', '.')}"
    owners = {cls.__module__ for cls in registry.methods().values()}
    assert {f"{package}.{module}" for module in modules} == {m for m in owners if m.rpartition(".")[0] == package}


def test_a_family_is_one_file_and_nothing_lies_beside() -> None:
    modules = {f"tangovlm.models.{path.stem}" for path in (SOURCE / "models").glob("*.py")} - {
        "tangovlm.models.__init__"
    }
    assert modules == {cls.__module__ for cls in registry.families().values()}


def test_subfolders_of_methods_and_models() -> None:
    def folders(name: str) -> set[str]:
        return {path.parent.name for path in (SOURCE / name).glob("*/__init__.py")}

    assert folders("methods") == {"common", "in_llm"}
    assert folders("models") == {"common"}


def test_tests_mirror_the_tree() -> None:
    for folder in {path.parent for path in TESTS.rglob("test_*.py")}:
        place = folder.relative_to(TESTS)
        if place.parts and place.parts[0] not in OTHER_TESTS:
            assert (SOURCE / place).is_dir(), f"tests/{place} mirrors no folder of the package"
