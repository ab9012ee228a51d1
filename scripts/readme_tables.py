"""Write the generated parts of README.md and docs/ from the registry, the source tree and the results of benchmarks.

python scripts/readme_tables.py                write them
python scripts/readme_tables.py --check        exit with 1 if they are out of date
python scripts/readme_tables.py --take FOLDER  take in the rows of benchmarks that scripts/on_gpu.sh left there first
"""

import json
import runpy
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tangovlm.bench import flops, tables
from tangovlm.bench.profile import bench as profile
from tangovlm.bench.prune import bench as prune
from tangovlm.bench.prune import scale
from tangovlm.bench.server import bench as serve
from tangovlm.bench.ttft import bench as ttft
from tangovlm.bench.ttft.models import LlavaOnevision
from tangovlm.budget import count
from tangovlm.cli.commands import models
from tangovlm.cli.commands.methods import MethodCard, cards
from tangovlm.errors import InputError
from tangovlm.evaluate.shapes import TEXTS
from tangovlm.evaluate.summary import finished, overview, page
from tangovlm.models.common.family import FEATURES
from tangovlm.models.common.sinks import RELEASED

ROOT = Path(__file__).resolve().parent.parent
README, BENCHMARK = ROOT / "README.md", ROOT / "docs" / "benchmark.md"
PERFORMANCE, MODELS = ROOT / "docs" / "performance.md", ROOT / "docs" / "models.md"
SERVING = ROOT / "docs" / "serving.md"
FOLDER = ROOT / "benchmarks" / "results"
UPSTREAM = FOLDER / "upstream-tests.json"
RESULTS = sorted(FOLDER.glob("*.jsonl.gz"))
BENCHES = {"prune": prune, "scale": scale, "ttft": ttft, "flops": flops, "serve": serve, "profile": profile}
"""Command of `tangovlm bench` to its module; results are in benchmarks/results/bench-COMMAND.jsonl."""


def methods_table() -> str:
    """Every registered method: name, stage, signals, paper, where its official code is."""
    lines = ["| method | stage | reads | paper | official code |", "|---|---|---|---|---|"]
    return "\n".join(lines + [_method_row(card) for card in cards()])


def models_table(root: str) -> str:
    """Every family: its module, model classes, signals, what it is tested in, checkpoints.

    Parameters
    ----------
    root: the way from the page to the root of the repository, such as "../".
    """
    lines = ["| family | model classes | signals | tested | vLLM | checkpoints |", "|---|---|---|---|---|---|"]
    lines += [_model_row(card, root) for card in models.cards()]
    return "\n".join([*lines, "", f"Tested, *all*: {', '.join(FEATURES)}."])


def models_overview() -> str:
    """As `models_table`, without model classes, and checkpoints by the last part of their names."""
    lines = ["| family | signals | tested | checkpoints |", "|---|---|---|---|"]
    for card in models.cards():
        module = f"src/{card.module.replace('.', '/')}.py"
        names = ", ".join(f"[{name.split('/')[-1]}](https://huggingface.co/{name})" for name in card.checkpoints)
        lines.append(f"| [`{card.family}`]({module}) | {', '.join(card.signals)} | {card.tested_in} | {names} |")
    return "\n".join([*lines, "", f"Tested, *all*: {', '.join(FEATURES)}."])


def sinks_table() -> str:
    """The lists of sinks that the release masks."""
    lines = ["| family | grid | positions (row, column) | source |", "|---|---|---|---|"]
    for entry in RELEASED:
        places = ", ".join("{} ({}, {})".format(place, *divmod(place, entry.grid[1])) for place in entry.positions)
        source = f"[{entry.source.rsplit('/', 1)[1]}]({entry.source})"
        lines.append(f"| {entry.family} | {entry.grid[0]} × {entry.grid[1]} | {places} | {source} |")
    return "\n".join(lines)


def settings_table(name: str) -> str:
    """The fields of one method with their defaults."""
    card = next(card for card in cards() if card.name == name)
    lines = ["| field | default |", "|---|---|"]
    return "\n".join(lines + [f"| `{field}` | `{default!r}` |" for field, default in card.parameters.items()])


def sizing_table() -> str:
    """Keys and values of a clip in bfloat16, all and a tenth, and how many clips fit into a cache."""
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
    """Name, tokens that can be pruned, and those that cannot (a newline), of clips of the models of 7B."""
    found = []
    for frames in (32, 64):
        tokens = LlavaOnevision.visual_tokens(frames)
        more = LlavaOnevision.placeholders(frames) - tokens
        found.append((f"LLaVA-OneVision-7B, {frames} frames", tokens, more))
    # A token is 28 x 28 pixels of two frames; sides are rounded to as many.
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
    """On which GPUs rows of benchmarks were measured."""
    gpus = sorted({str(row["device"]) for row in rows if row.get("device", "cpu") != "cpu"})
    if not gpus:
        return "Nothing here was measured on a GPU yet."
    return f"Rows of {' and '.join(gpus)} were measured on that GPU, all others on a CPU."


def take(folder: Path, results: Path) -> list[str]:
    """Take in the rows of benchmarks of a run; one with the same keys as one that is there replaces it.

    Returns
    -------
    The benchmarks that had rows.

    Raises
    ------
    InputError: the folder has none, those of a rehearsal, or a file that cannot be read.
    """
    if (folder / "rehearsal").exists():
        raise InputError(f"{folder} is of a rehearsal, with shapes that say nothing: take a run on a GPU")
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
    # Scripts are no package.
    table = runpy.run_path(str(ROOT / "scripts" / "upstream_model_tests.py"))["table"]
    return "\n\n".join(f"transformers {release}:\n\n{table(releases[release])}" for release in newest_first)


def tree() -> str:
    """The packages and modules at the top of the library, each with the first line of its docstring."""
    lines = ["```", "src/tangovlm/"]
    for path in sorted((ROOT / "src" / "tangovlm").iterdir(), key=lambda path: (path.is_dir(), path.name)):
        source = path / "__init__.py" if path.is_dir() else path
        if path.name.startswith("__") or source.suffix != ".py" or not source.exists():
            continue
        name = f"{path.name}/" if path.is_dir() else path.name
        lines.append(f"  {name:<14}{_summary(source)}".rstrip())
    return "\n".join([*lines, "```"])


@cache
def generated() -> dict[Path, dict[str, str]]:
    """File to the name of each marked part to its text."""
    pages = {README: {"methods": methods_table(), "models": models_overview(), "tree": tree()}, BENCHMARK: {}}
    pages[MODELS] = {"models": models_table("../"), "sinks": sinks_table(), "upstream": upstream_tables(UPSTREAM)}
    for path in RESULTS:
        of, lines, headers = finished(path)
        pages[BENCHMARK][f"benchmark-{of.name}"] = page(of, lines, headers, look=True).rstrip()
        if of.name == "methods":
            pages[README]["benchmark"] = overview(lines)
    pages[SERVING] = {"sizing": sizing_table()}
    if parts := bench_tables(FOLDER):
        pages[SERVING] |= {name: part for name, part in parts.items() if name == "bench serve"}
        pages[PERFORMANCE] = {name: part for name, part in parts.items() if name not in pages[SERVING]}
    if "bench prune" in parts:
        pages[README]["bench"] = parts["bench prune"]
        note = gpu_note([row for rows in bench_rows(FOLDER).values() for row in rows])
        pages[README]["gpu"] = pages[PERFORMANCE]["gpu"] = note
    for card in cards():
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


def _method_row(card: MethodCard) -> str:
    reads = ", ".join(card.signals) or "features only"
    url, _, commit = card.official_repo.partition("@")
    code = f"[{'/'.join(url.split('/')[-2:])} @ {commit}]({url}/tree/{commit})" if url else ""
    short = card.paper.removeprefix("https://").removeprefix("arxiv.org/abs/")
    paper = f"[{short}]({card.paper})" if card.paper else ""
    return f"| [`{card.name}`](docs/methods/{card.name}.md) | {card.stage} | {reads} | {paper} | {code} |"


def _model_row(card: models.ModelCard, root: str) -> str:
    module = f"{root}src/{card.module.replace('.', '/')}.py"
    classes = "<br>".join(f"`{name}`" for name in card.architectures)
    checkpoints = "<br>".join(f"[{name}](https://huggingface.co/{name})" for name in card.checkpoints)
    served = "yes" if card.served else "no"
    signals = ", ".join(card.signals)
    return f"| [`{card.family}`]({module}) | {classes} | {signals} | {card.tested_in} | {served} | {checkpoints} |"


def _summary(source: Path) -> str:
    first = source.read_text(encoding="utf-8").lstrip().split("\n", 1)[0]
    return first.strip('"').rstrip(".") if first.startswith('"""') else ""


def main(arguments: list[str]) -> int:
    """Write the parts, or only compare them."""
    if arguments[:1] == ["--take"] and len(arguments) == 2:
        try:
            print(f"taken: {', '.join(take(Path(arguments[1]), FOLDER))}")
        except InputError as error:
            raise SystemExit(f"error: {error}") from error
        arguments = []
    stale = []
    for path, parts in generated().items():
        text = path.read_text(encoding="utf-8")
        if (new := filled(text, parts)) != text:
            stale.append(path)
            if "--check" not in arguments:
                path.write_text(new, encoding="utf-8")
    for path in stale:
        print(f"{'out of date' if '--check' in arguments else 'written'}: {path.relative_to(ROOT)}")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
