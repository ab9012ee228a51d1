"""Run transformers' own model tests inside `attach` and on stock models, and compare the outcomes test by test.

    python scripts/upstream_model_tests.py CHECKOUT [--families llava_onevision ...] [--output FILE]
                                           [--retention 1.0] [--all-kept] [--tests EXPRESSION]

CHECKOUT is a checkout of transformers' sources at the tag of the installed release (`git checkout v5.24.0`). Only its
`tests` are used: the models are those of the installed package, and nothing of the checkout is changed. With retention
1.0 a model inside `attach` has to behave as if it were not there, so the same tests must pass, fail and be skipped.

All tests run inside `attach`, and those that attached a model once more without. Exit status: 0 without differences, 1
with some, 2 if the comparison could not be made. A family whose tests attach no model at all is of the last kind. Each
family is written to FILE when it is done; a later call leaves out those that FILE has for the same releases, tests and
sources of this library. `scripts/readme_tables.py` makes a table of FILE.

The environment needs what the tests import, beside this library (they skip what else is missing):

    pip install accelerate datasets httpx parameterized pillow psutil pytest pytest-asyncio pytest-env pytest-order \\
        pytest-random-order pytest-rerunfailures pytest-rich pytest-timeout pytest-xdist requests

The hub is switched off (`HF_HUB_OFFLINE=1`), so tests that load a checkpoint fail in both runs. Tests that compile take
most of the time: `--tests "not compil"` leaves them out. `--all-kept` adds a third run, for information: a method that
keeps every token and yet runs all the hooks. It does not count for the status, as it refuses labels.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "upstream-tests.json"
FAMILIES = (
    "llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl", "llava_next_video", "smolvlm", "video_llama_3",
    "glm4v",
)  # fmt: skip
PROGRESS_S = 30

Outcomes = dict[str, dict[str, Any]]
"""Name of a test to its row in the file of `upstream_plugin`."""


class ComparisonError(Exception):
    """The comparison could not be made; one line says why."""


def installed_release(checkout: Path) -> str:
    """The release of the installed transformers, which has to be the checkout's.

    Raises
    ------
    ComparisonError: a folder that is no checkout, or one of another release.
    """
    source = checkout / "src" / "transformers" / "__init__.py"
    if not (checkout / "tests" / "models").is_dir() or not source.is_file():
        raise ComparisonError(
            f"{checkout} has no tests/models and src/transformers: name a checkout of transformers' sources"
        )
    found = re.search(r'^__version__ = "([^"]+)"', source.read_text(encoding="utf-8"), re.MULTILINE)
    there, here = found[1] if found else "an unknown release", version("transformers")
    if there != here:
        raise ComparisonError(f"{checkout} has transformers {there}, but {here} is installed: git checkout v{here}")
    return here


def run(checkout: Path, family: str, selection: list[str], attach: list[str], label: str) -> Outcomes:
    """Run tests of one family in a process of its own.

    Raises
    ------
    ComparisonError: the process did not come to the end of the tests, or found none.
    """
    with tempfile.TemporaryDirectory() as folder:
        outcomes, log = Path(folder) / "outcomes.jsonl", Path(folder) / "log"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "upstream_plugin"]
        command += ["--outcomes", str(outcomes), *attach, *selection]
        # Relative entries would be read from the checkout, whose `src` holds another transformers.
        paths = map(os.path.abspath, filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
        paths = [str(ROOT / "scripts"), str(ROOT / "src"), *paths]
        settings = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
        with log.open("wb") as stream:
            process = subprocess.Popen(command, cwd=checkout, env=settings, stdout=stream, stderr=subprocess.STDOUT)
            try:
                _wait(process, outcomes, f"{family}, {label}")
            finally:
                process.kill()
        # 1 says that tests failed.
        if process.returncode not in (0, 1):
            lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
            # An exception of an import has "E" in front of it; an error that ended pytest is in the last line.
            marked = (re.sub("^(E  |ERROR:) *", "", line) for line in lines if re.match("E  |ERROR:", line))
            reason = next(marked, lines[-1] if lines else "no output")
            raise ComparisonError(f"{family}, {label}: pytest ended with status {process.returncode}: {reason}")
        rows = [json.loads(line) for line in outcomes.read_text(encoding="utf-8").splitlines()]
        return {row["test"]: row for row in rows}


def _wait(process: subprocess.Popen[bytes], outcomes: Path, label: str) -> None:
    """Wait for a process, and say now and then how far it is."""
    start, last = time.monotonic(), 0.0
    while process.poll() is None:
        time.sleep(0.2)
        passed = time.monotonic() - start
        if passed - last >= PROGRESS_S and outcomes.exists():
            last, done = passed, len(outcomes.read_text(encoding="utf-8").splitlines())
            print(f"{label}: {done} tests in {passed:.0f} s", file=sys.stderr, flush=True)


def compare(checkout: Path, family: str, attach: list[str], label: str, stock: Outcomes, attached: Outcomes) -> Any:
    """The entry of one run inside `attach`, beside the run of the same tests on stock models.

    A test that comes out otherwise is run once more by itself in both ways. It is a difference, unless the stock model
    has another outcome this time too: then the test is unsteady.
    """
    differences, unsteady = {}, []
    if differing := [test for test in attached if _outcome(stock, test) != _outcome(attached, test)]:
        again = run(checkout, family, differing, [], "stock once more")
        attached = attached | run(checkout, family, differing, attach, f"{label} once more")
        for test in differing:
            if _outcome(again, test) != _outcome(stock, test):
                unsteady.append(test)
            elif _outcome(attached, test) != _outcome(stock, test):
                message = attached[test]["message"].split("\n")[0]
                differences[test] = [*map(" ".join, (_outcome(stock, test), _outcome(attached, test))), message]
    counts = {name: sum(row[name] for row in attached.values()) for name in ("models", "refused", "videos")}
    return {"outcomes": _counted(attached), **counts, "differences": differences, "unsteady": unsteady}


def _family(checkout: Path, name: str, options: argparse.Namespace) -> dict[str, Any]:
    attach = ["--attach-retention", str(options.retention)]
    every = run(checkout, name, _selection(checkout, name, options.tests), attach, "attached")
    # No other test can come out otherwise.
    attached = {test: row for test, row in every.items() if row["models"] or row["refused"]}
    if not any(row["models"] for row in attached.values()):
        raise ComparisonError(f"{name}: its {len(every)} tests attached no model, so nothing was compared")
    stock = run(checkout, name, list(attached), [], "stock")
    entry: dict[str, Any] = {"tests": len(every), "stock": _counted(stock)}
    entry["attached"] = compare(checkout, name, attach, "attached", stock, attached)
    if options.all_kept:
        attach = ["--attach-all-kept"]
        kept = run(checkout, name, list(attached), attach, "all kept")
        entry["all kept"] = compare(checkout, name, attach, "all kept", stock, kept)
    return entry


def _selection(checkout: Path, family: str, expression: str) -> list[str]:
    """Those of the models: processors have tests of their own, which meet no model."""
    files = sorted((checkout / "tests" / "models" / family).glob("test_modeling_*.py"))
    return [*(str(path.relative_to(checkout)) for path in files), "-k", expression]


def _outcome(outcomes: Outcomes, test: str) -> tuple[str, str]:
    """What became of a test: a failure counts as the same only with the same kind of exception."""
    row = outcomes.get(test, {"outcome": "missing", "raised": ""})
    return row["outcome"], row["raised"] if row["outcome"] in ("failed", "error") else ""


def _counted(outcomes: Outcomes) -> dict[str, int]:
    return dict(Counter(row["outcome"] for row in outcomes.values()))


def fingerprint(*folders: Path) -> str:
    """Changes with any Python file in the folders."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in folders for path in folder.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def table(families: dict[str, Any]) -> str:
    """The results of one release in Markdown, a row for each family."""
    lines = [
        "| tests of | tests | with a model | passed, stock | passed, attached | models | videos | differences |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, entry in families.items():
        stock, attached = entry["stock"], entry["attached"]
        cells = [f"`{name}`", entry["tests"], sum(stock.values()), stock.get("passed", 0)]
        cells += [attached["outcomes"].get("passed", 0), attached["models"], attached["videos"]]
        lines.append(f"| {' | '.join(map(str, [*cells, len(attached['differences'])]))} |")
    return "\n".join(lines)


def report(name: str, entry: dict[str, Any]) -> None:
    """Print what a reader has to look at."""
    for run_name in ("attached", "all kept"):
        for test, (stock, other, message) in entry.get(run_name, {}).get("differences", {}).items():
            title = f"{name}: {test.split('::', 1)[1]}"
            print(f"{title}: stock {stock.strip()}, {run_name} {other.strip()}: {message}")
    for test in entry["attached"]["unsteady"]:
        print(f"{name}: {test.split('::', 1)[1]}: varies on the stock model")


def main(arguments: list[str] | None = None) -> int:
    """Compare the families, print the table; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("checkout", type=Path, help="checkout of transformers' sources, of the installed release")
    parser.add_argument("--families", nargs="+", default=FAMILIES, metavar="NAME", help="folders of tests/models")
    parser.add_argument("--output", type=Path, default=RESULTS, help="file of results, added to (%(default)s)")
    parser.add_argument("--retention", type=float, default=1.0, help="of the attached Tango (%(default)s)")
    parser.add_argument("--all-kept", action="store_true", help="also attach a method that keeps every token")
    parser.add_argument("--tests", default="test", help="as pytest -k: which tests (all)")
    options = parser.parse_args(arguments)
    try:
        return _compare_all(options)
    except ComparisonError as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 2


def _compare_all(options: argparse.Namespace) -> int:
    checkout = options.checkout.resolve()
    release = installed_release(checkout)
    models = checkout / "tests" / "models"
    if unknown := [name for name in options.families if not any((models / name).glob("test_modeling_*.py"))]:
        raise ComparisonError(f"{checkout} has no tests/models/{unknown[0]}/test_modeling_*.py")
    results = json.loads(options.output.read_text(encoding="utf-8")) if options.output.exists() else {}
    of = results.setdefault(release, {})
    failed = False
    for name in options.families:
        tests = fingerprint(models / name, checkout / "tests" / "generation")
        key = {
            "tests": options.tests, "retention": options.retention, "torch": version("torch"), "upstream": tests,
            "source": fingerprint(ROOT / "src" / "tangovlm"),
        }  # fmt: skip
        wanted = {"stock", "attached", *(("all kept",) if options.all_kept else ())}
        if key == of.get(name, {}).get("key") and wanted <= set(of[name]):
            print(f"{name}: in {options.output} already", file=sys.stderr)
            continue
        of.pop(name, None)
        try:
            of[name] = {"key": key, **_family(checkout, name, options)}
        except ComparisonError as error:
            print(f"error: {error}", file=sys.stderr)
            failed = True
        options.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    found = {name: of[name] for name in options.families if name in of}
    print(f"transformers {release}, torch {version('torch')}, retention {options.retention}\n\n{table(found)}\n")
    for name, entry in found.items():
        report(name, entry)
    return 2 if failed else int(any(entry["attached"]["differences"] for entry in found.values()))


if __name__ == "__main__":
    sys.exit(main())
