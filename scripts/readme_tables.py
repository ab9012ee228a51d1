"""Write what is generated from the registry, the source tree and the benchmark results.

That is parts of README.md and docs/, and the pages of benchmarks/results.

python scripts/readme_tables.py                write them
python scripts/readme_tables.py --check        exit with 1 if they are out of date
python scripts/readme_tables.py --take FOLDER  first add the benchmark rows that scripts/on_gpu.sh wrote into FOLDER
"""

import json
import runpy
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tangovlm.bench import batch, decode, first_token, flops, profile, prune, questions, server, stream, tables, ttft
from tangovlm.bench.prune import scale
from tangovlm.bench.ttft.models import LlavaOnevision
from tangovlm.budget import count
from tangovlm.cli import catalog
from tangovlm.errors import InputError
from tangovlm.evaluate.shapes import TEXTS
from tangovlm.evaluate.tables.markdown import overview, page, title
from tangovlm.evaluate.tables.summary import finished
from tangovlm.models.common.family import FEATURES
from tangovlm.models.common.sinks import RELEASED

ROOT = Path(__file__).resolve().parent.parent
README, BENCHMARK = ROOT / "README.md", ROOT / "docs" / "benchmark.md"
PERFORMANCE, MODELS = ROOT / "docs" / "performance.md", ROOT / "docs" / "models.md"
METHODS, SERVING = ROOT / "docs" / "methods" / "README.md", ROOT / "docs" / "serving.md"
BENCH_PAGES = {"bench serve": SERVING, "bench stream": ROOT / "docs" / "streams.md"}
"""Pages of benchmarks whose table is not in PERFORMANCE."""
SOURCE = ROOT / "src" / "tangovlm"
FOLDER = ROOT / "benchmarks" / "results"
UPSTREAM = FOLDER / "upstream-tests.json"
RESULTS = sorted(FOLDER.glob("*.jsonl.gz"))
BENCHES = {
    "prune": prune, "scale": scale, "ttft": ttft, "questions": questions, "flops": flops, "serve": server,
    "profile": profile, "decode": decode, "batch": batch, "stream": stream,
    "first-token": first_token,
}  # fmt: skip
"""Command of `tangovlm bench` to its module; results are in benchmarks/results/bench-COMMAND.jsonl."""
TREE = (
    "errors.py", "validation.py", "tokens.py", "budget.py", "registry.py", "kernels", "machine", "video", "inputs",
    "checkpoints", "methods", "tower", "models", "selfcheck", "session", "pipeline", "streaming", "tiny", "report",
    "serve", "batch", "doctor", "evaluate", "inspection", "bench", "app", "cli",
)  # fmt: skip
"""The library in the order in which data flows through it."""
CLOSED = {"kernels", "app", "bench", "cli", "evaluate", "report", "serve", "tiny"}
"""Folders whose subfolders are not part of the tree: operations, and parts of the outer layers."""


def methods_overview() -> str:
    """The names of the registered methods by stage."""
    lines = ["| stage | methods |", "|---|---|"]
    for stage, where in (("pre-llm", "before the language model"), ("in-llm", "inside the language model")):
        names = [f"`{card.name}`" for card in catalog.registered().methods if card.stage == stage]
        lines.append(f"| {where} | {', '.join(names)} |")
    return "\n".join(lines)


def methods_table() -> str:
    """Every registered method: name, stage, signals, paper, official code."""
    lines = ["| method | stage | reads | paper | official code |", "|---|---|---|---|---|"]
    return "\n".join(lines + [_method_row(card) for card in catalog.registered().methods])


def models_overview() -> str:
    """The names of the registered families."""
    return ", ".join(f"`{card.family}`" for card in catalog.registered().models) + "."


def models_table() -> str:
    """Every registered family: module, model classes, signals, tested uses, checkpoints."""
    lines = ["| family | model classes | signals | tested | vLLM | checkpoints |", "|---|---|---|---|---|---|"]
    lines += [_model_row(card) for card in catalog.registered().models]
    images = [f"`{card.family}`" for card in catalog.registered().models if card.prunes_images]
    notes = f"Tested, *all*: {', '.join(FEATURES)}.", f"Images can be pruned too (`images=True`): {', '.join(images)}."
    return "\n".join([*lines, "", notes[0], "", notes[1]])


def sinks_table() -> str:
    """The sink positions that the authors' release masks."""
    lines = ["| family | grid | positions (row, column) | source |", "|---|---|---|---|"]
    for entry in RELEASED:
        places = ", ".join("{} ({}, {})".format(place, *divmod(place, entry.grid[1])) for place in entry.positions)
        source = f"[{entry.source.rsplit('/', 1)[1]}]({entry.source})"
        lines.append(f"| {entry.family} | {entry.grid[0]} × {entry.grid[1]} | {places} | {source} |")
    return "\n".join(lines)


def settings_table(name: str) -> str:
    """The fields of one method with their defaults."""
    card = next(card for card in catalog.registered().methods if card.name == name)
    lines = ["| field | default |", "|---|---|"]
    return "\n".join(lines + [f"| `{field}` | `{default!r}` |" for field, default in card.parameters.items()])


def sizing_table() -> str:
    """Size of the keys and values of a clip in bfloat16, with all and 10 % of the tokens, and clips per cache."""
    cache_gib, bytes_a_token = 40, 2 * TEXTS["7b"].cache_width
    lines = [
        f"| model, clip | tokens | kept | KV MiB | kept MiB | clips in {cache_gib} GiB | kept |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, tokens, more in _clips():
        counts = [tokens + more, count(0.1, tokens) + more]
        sizes = [f"{each * bytes_a_token / 2**20:,.0f}" for each in counts]
        fit = [f"{cache_gib * 2**30 // (each * bytes_a_token):,}" for each in counts]
        cells = [cell for pair in (map("{:,}".format, counts), sizes, fit) for cell in pair]
        lines.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join(lines)


def _clips() -> list[tuple[str, int, int]]:
    """Name of a 7B model and a clip, the tokens that can be pruned, and those that cannot (a newline)."""
    found = []
    for frames in (32, 64):
        tokens = LlavaOnevision.visual_tokens(frames)
        more = LlavaOnevision.placeholders(frames) - tokens
        found.append((f"LLaVA-OneVision-7B, {frames} frames", tokens, more))
    # A token is 28 x 28 pixels of two frames; the sides of a frame are rounded to multiples of 28.
    for frames, (width, height) in ((64, (640, 360)), (256, (640, 360))):
        tokens = frames // 2 * round(width / 28) * round(height / 28)
        found.append((f"Qwen2.5-VL-7B, {frames} frames of {width} × {height}", tokens, 0))
    return found


def bench_tables(folder: Path) -> dict[str, str]:
    """A table for each benchmark that has results."""
    found = {}
    for name, rows in bench_rows(folder).items():
        found[f"bench {name}"] = f"{tables.markdown(rows, BENCHES[name].COLUMNS)}\n\n{tables.origin(rows)}"
    return found


def bench_rows(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of each benchmark that has results."""
    paths = {name: folder / f"bench-{name}.jsonl" for name in BENCHES}
    return {name: tables.read(path, name, BENCHES[name].KEYS) for name, path in paths.items() if path.exists()}


def gpu_note(rows: Sequence[tables.Row]) -> str:
    """A sentence on the GPUs that benchmark rows were measured on."""
    gpus = sorted({str(row["device"]) for row in rows if row.get("device", "cpu") != "cpu"})
    if not gpus:
        return "Nothing here was measured on a GPU yet."
    return f"Rows of {' and '.join(gpus)} were measured on that GPU, all others on a CPU."


def take(folder: Path, results: Path) -> list[str]:
    """Add the benchmark rows of a run to the results; a row replaces one with the same keys.

    Returns
    -------
    The benchmarks that have rows.

    Raises
    ------
    InputError: the folder has no rows, rows of a rehearsal, or a file that cannot be read.
    """
    if (folder / "rehearsal").exists():
        raise InputError(f"{folder} is of a rehearsal, whose small shapes are not comparable: use a run on a GPU")
    found = bench_rows(folder)
    if not found:
        raise InputError(f"{folder} has no bench-*.jsonl: give the folder that scripts/on_gpu.sh wrote into")
    for name, rows in found.items():
        path = results / f"bench-{name}.jsonl"
        tables.append(path, name, rows)
        merged = tables.read(path, name, BENCHES[name].KEYS)
        path.write_text("".join(json.dumps(row, allow_nan=False) + "\n" for row in merged), encoding="utf-8")
    return list(found)


def upstream_tables(path: Path) -> str:
    """The results of `upstream_model_tests.py`, a table for each release of transformers, the newest first."""
    releases = json.loads(path.read_text(encoding="utf-8"))
    newest_first = sorted(releases, key=lambda release: [int(part) for part in release.split(".")], reverse=True)
    # `scripts` is not importable if this file runs as a script.
    table = runpy.run_path(str(ROOT / "scripts" / "upstream_model_tests.py"))["table"]
    return "\n\n".join(f"transformers {release}:\n\n{table(releases[release])}" for release in newest_first)


def tree() -> str:
    """The modules, packages and subpackages of the library, each with the first line of its docstring.

    Raises
    ------
    SystemExit: `TREE` does not list what is there.
    """
    there = {path.name for path in SOURCE.glob("*.py") if not path.name.startswith("_")} | set(_packages(SOURCE))
    if different := there ^ set(TREE):
        raise SystemExit(f"TREE and src/tangovlm differ in {', '.join(sorted(different))}: edit TREE")
    lines = ["```", "src/tangovlm/"]
    for name in TREE:
        path = SOURCE / name
        lines.append(f"  {name:<14}{_summary(path)}" if path.is_file() else f"  {name + '/':<14}{_summary(path)}")
        if name not in CLOSED:
            lines += [f"    {part + '/':<12}{_summary(path / part)}" for part in _packages(path)]
    return "\n".join([*map(str.rstrip, lines), "```"])


def _packages(folder: Path) -> list[str]:
    """The names of the packages in a folder."""
    return sorted(path.parent.name for path in folder.glob("*/__init__.py"))


@cache
def results() -> dict[str, tuple[Any, ...]]:
    """Name of each table of benchmarks/results to the table, its lines and the headers of the file."""
    return {path.name.partition(".")[0]: finished(path) for path in RESULTS}


def result_pages() -> dict[Path, str]:
    """The page of each table of benchmarks/results."""
    return {FOLDER / f"{name}.md": page(*result, coverage=True) for name, result in results().items()}


@cache
def generated() -> dict[Path, dict[str, str]]:
    """File to name of each marked part to its text."""
    pages = {README: {"methods": methods_overview(), "models": models_overview(), "tree": tree()}, BENCHMARK: {}}
    pages[METHODS] = {"methods": methods_table()}
    pages[MODELS] = {"models": models_table(), "sinks": sinks_table(), "upstream": upstream_tables(UPSTREAM)}
    pages[BENCHMARK]["results"] = "\n".join(
        ["| table | page |", "|---|---|"]
        + [
            f"| {title(of, headers)} | [{name}](../benchmarks/results/{name}.md) |"
            for name, (of, _, headers) in results().items()
        ]
    )
    for name, (of, lines, _) in results().items():
        if of.name == "methods":
            # A later version of the benchmark has a suffix: methods-2.
            pages[BENCHMARK][name.replace("methods", "overview")] = overview(lines)
    pages[SERVING] = {"sizing": sizing_table()}
    for name, part in (parts := bench_tables(FOLDER)).items():
        pages.setdefault(BENCH_PAGES.get(name, PERFORMANCE), {})[name] = part
    if "bench prune" in parts:
        pages[PERFORMANCE]["gpu"] = gpu_note([row for rows in bench_rows(FOLDER).values() for row in rows])
    for card in catalog.registered().methods:
        pages[ROOT / "docs" / "methods" / f"{card.name}.md"] = {"settings": settings_table(card.name)}
    return pages


def filled(text: str, parts: dict[str, str]) -> str:
    """The text with each part between `<!-- begin NAME -->` and `<!-- end NAME -->` replaced."""
    for name, part in parts.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise SystemExit(f"needs exactly one pair of markers {begin} ... {end}")
        text = f"{text[: text.index(begin)]}{begin}\n{part}\n{text[text.index(end) :]}"
    return text


def _method_row(card: catalog.MethodCard) -> str:
    url, _, commit = card.official_repo.partition("@")
    code = f"[{'/'.join(url.split('/')[-2:])} @ {commit}]({url}/tree/{commit})" if url else ""
    short = card.paper.removeprefix("https://").removeprefix("arxiv.org/abs/")
    paper = f"[{short}]({card.paper})" if card.paper else ""
    return f"| [`{card.name}`]({card.name}.md) | {card.stage} | {card.reads} | {paper} | {code} |"


def _model_row(card: catalog.ModelCard) -> str:
    module = f"../src/{card.module.replace('.', '/')}.py"
    classes = "<br>".join(f"`{name}`" for name in card.architectures)
    checkpoints = "<br>".join(f"[{name}](https://huggingface.co/{name})" for name in card.checkpoints)
    served = "yes" if card.served else "no"
    signals = ", ".join(card.signals)
    return f"| [`{card.family}`]({module}) | {classes} | {signals} | {card.tested_in} | {served} | {checkpoints} |"


def _summary(path: Path) -> str:
    """The first line of the docstring of a module or package."""
    source = path / "__init__.py" if path.is_dir() else path
    first = source.read_text(encoding="utf-8").lstrip().split("\n", 1)[0]
    return first.strip('"').rstrip(".") if first.startswith('"""') else ""


def main(arguments: list[str]) -> int:
    """Write the generated parts, or only compare them."""
    if arguments[:1] == ["--take"] and len(arguments) == 2:
        try:
            print(f"taken: {', '.join(take(Path(arguments[1]), FOLDER))}")
        except InputError as error:
            raise SystemExit(f"error: {error}") from error
        arguments = []
    stale = []
    pages = {path: filled(path.read_text(encoding="utf-8"), parts) for path, parts in generated().items()}
    pages[catalog.FILE] = catalog.registered().as_json()
    for path, new in (pages | result_pages()).items():
        if not path.exists() or path.read_text(encoding="utf-8") != new:
            stale.append(path)
            if "--check" not in arguments:
                path.write_text(new, encoding="utf-8")
    for path in stale:
        print(f"{'out of date' if '--check' in arguments else 'written'}: {path.relative_to(ROOT)}")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
