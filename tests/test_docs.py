"""What the documents say is so: tables, trees, links, commands and examples."""

import importlib.util
import re
import shlex
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch

import tangovlm
from tangovlm import registry
from tangovlm.bench import flops
from tangovlm.bench.tables import append
from tests.test_api import surface

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


@cache
def load_tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("readme_tables", ROOT / "scripts" / "readme_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def examples(word: str) -> str:
    """The one Python block of the README that holds a word."""
    (block,) = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if word in block]
    return block


def test_generated_parts_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert load_tables().main(["--check"]) == 0, capsys.readouterr().out + "run: python scripts/readme_tables.py"


def test_drift_is_noticed() -> None:
    tables = load_tables()
    stale = README.replace(", `tango`,", ", `tengo`,")
    assert tables.filled(stale, tables.generated()[ROOT / "README.md"]) == README != stale


def test_results_of_a_benchmark_make_a_table(tmp_path: Path) -> None:
    rows = list(flops.run(size="tiny", frames=1, retentions=(1.0, 0.5), progress=lambda words: None))
    append(tmp_path / "bench-flops.jsonl", "flops", rows)
    parts = load_tables().bench_tables(tmp_path)
    assert list(parts) == ["bench flops"]
    assert "| 1.0 | 196 |" in parts["bench flops"]
    assert "| 0.5 | 98 |" in parts["bench flops"]
    assert parts["bench flops"].endswith(f"torch {torch.__version__}.")


def test_a_benchmark_without_results_has_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = load_tables()
    monkeypatch.setattr(tables, "bench_tables", lambda folder: {"bench flops": "a table"})
    monkeypatch.setattr(tables, "RESULTS", [])
    pages = tables.generated.__wrapped__()
    assert pages[tables.PERFORMANCE] == {"bench flops": "a table"}
    assert set(pages[tables.README]) == {"methods", "models", "tree"}


def test_results_of_benchmarks_are_known() -> None:
    known = {f"bench-{name}.jsonl" for name in load_tables().BENCHES}
    assert {path.name for path in (ROOT / "benchmarks" / "results").glob("bench-*")} <= known


def test_every_method_and_model_is_in_the_readme() -> None:
    for name in registry.methods():
        assert f"`{name}`" in README
        assert (ROOT / "docs" / "methods" / f"{name}.md").is_file()
    methods = (ROOT / "docs" / "methods" / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \[`(.+?)`\]", methods, re.MULTILINE) == list(registry.methods())
    models = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    for architecture, family in registry.families().items():
        assert f"`{family.name}`" in README
        assert f"[`{family.name}`]" in models
        assert f"`{architecture}`" in models


def test_tree_names_every_module() -> None:
    tree = README.split("<!-- begin tree -->")[1].split("<!-- end tree -->")[0]
    shown = set(re.findall(r"^  ([\w.]+/?)", tree, re.MULTILINE))
    source = ROOT / "src" / "tangovlm"
    modules = {path.name for path in source.glob("*.py") if not path.name.startswith("_")}
    packages = {path.parent.name + "/" for path in source.glob("*/__init__.py")}
    assert shown == modules | packages
    folders = re.split(r"^  (\w+)/.*\n", tree, flags=re.MULTILINE)[1:]
    shown_inside = {
        name: set(re.findall(r"^    (\w+)/", below, re.MULTILINE))
        for name, below in zip(folders[::2], folders[1::2], strict=True)
    }
    for name in load_tables().CLOSED:
        assert shown_inside.pop(name) == set()
    assert shown_inside == {
        name: {path.parent.name for path in (source / name).glob("*/__init__.py")} for name in shown_inside
    }


def test_tree_lists_what_data_passes_first() -> None:
    tables = load_tables()
    order = [name.removesuffix(".py") for name in tables.TREE]
    assert order.index("video") < order.index("methods") < order.index("session") < order.index("cli")


def test_a_new_module_needs_its_place_in_the_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = load_tables()
    monkeypatch.setattr(tables, "TREE", [name for name in tables.TREE if name != "video"])
    with pytest.raises(SystemExit, match="differ in video: edit TREE"):
        tables.tree()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    commands = surface()
    lines = re.findall(r"^    tangovlm (.+)$", page.read_text(encoding="utf-8").replace("\\\n", " "), re.MULTILINE)
    for line in lines:
        name = next(name for name in commands if f"{line} ".startswith(f"{name} "))
        words = shlex.split(line.removeprefix(name), comments=True)
        own = words[: words.index("--")] if "--" in words else words
        # `serve` forwards other options to vLLM.
        assert name == "serve" or {word for word in own if word.startswith("--")} <= commands[name], line


def test_commands_and_options_in_the_readme() -> None:
    assert len(re.findall(r"^    tangovlm (.+)$", README, re.MULTILINE)) >= 3
    options = set(re.findall(r"`(--[\w-]+)", README)) - {"--check"}
    assert options <= set.union(*surface().values())


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent.name == "docs"], ids=lambda page: page.name)
def test_this_package_is_installed_from_a_checkout(page: Path) -> None:
    """No index has it; what errors say is tested in tests/machine/test_installation.py."""
    assert not re.findall(r"^ *pip install .*\btangovlm\b.*$", page.read_text(encoding="utf-8"), re.MULTILINE)


def test_make_targets_in_the_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"^    make ([a-z]+)", README, re.MULTILINE)) | set(re.findall(r"`make ([a-z]+)`", README))
    assert {"demo", "test"} <= named <= targets


def test_example_on_tensors(capsys: pytest.CaptureFixture[str]) -> None:
    space: dict[str, object] = {}
    exec(examples("VideoTokens(features=torch"), space)
    selection = space["selection"]
    assert isinstance(selection, tangovlm.Selection)
    assert selection.features.shape == (157, 64)
    assert "157" in capsys.readouterr().out


def test_example_of_a_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_methods", dict(registry.methods()))
    exec(examples("class TopSaliency"), {"__name__": "example"})
    saliency = torch.tensor([[[0.1, 0.4], [0.3, 0.2]]])
    tokens = tangovlm.VideoTokens(torch.arange(8.0).view(1, 2, 2, 2), saliency=saliency)
    selection = tangovlm.method("top-saliency", retention=0.5)(tokens)
    assert selection.indices.tolist() == [1, 2]
    assert selection.features.tolist() == [[2, 3], [4, 5]]
    assert selection.sources.tolist() == [[[-1, 0], [1, -1]]]


def test_examples_compile_and_use_public_names() -> None:
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        compile(block, "README.md", "exec")
        assert set(re.findall(r"\btangovlm\.([A-Za-z]\w*)\(", block)) <= set(tangovlm.__all__)
