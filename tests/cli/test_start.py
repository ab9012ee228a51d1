"""The start of a command: what it imports, its spinner, an early interruption, and output that cannot be written."""

import json
import os
import pty
import resource
import signal
import subprocess
import sys
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest

import tangovlm
from tangovlm.cli import catalog, main, spinner
from tangovlm.cli.commands.inspect import THRESHOLD
from tangovlm.cli.commands.inspect.pictures import DRAWN
from tangovlm.cli.output import log
from tangovlm.inspection.clips import DRAWN_CLIPS
from tangovlm.models.common.sinks import SINK_THRESHOLD
from tests.cli.conftest import Run

HEAVY = ("torch", "transformers", "huggingface_hub", "numpy", "av", "PIL")
LIGHT = (
    ("--version",), ("-V",), ("--help",), ("-h",), ("methods",), ("methods", "--json"), ("models",), ("ask", "--help"),
    ("batch", "-h"), ("serve", "-h"), ("inspect", "sinks", "-h"),
    ("inspect", "attention", "-h"), ("bench", "prune", "-h"), ("reproduce", "-h"),
    ("eval", "-h"), ("doctor", "-h"), ("app", "-h"), ("ask",), ("ask", "clip.mp4", "What?", "--frames", "many"),
    ("ask", "clip.mp4", "What?", "--retention", "0"), ("ask", "clip.mp4", "What?", "--fps", "0"),
    ("ask", "no-such-clip.mp4", "What?"), ("ask", "clip.mp4", "What?", "--report", "page.pdf"),
    ("ask", "clip.mp4", "What?", "--model", "./no-such-folder"), ("inspect", "clusters", "no-such-clip.mp4"),
    ("inspect", "compare", "--retention", "0"), ("batch", "no-such-table.csv", "out.jsonl"),
)  # fmt: skip


def test_light_commands_import_no_heavy_package() -> None:
    program = f"""
import contextlib, io, json, sys
from tangovlm.cli import main
found = {{}}
for arguments in {LIGHT!r}:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        main(list(arguments))
    assert out.getvalue(), arguments
    found[" ".join(arguments)] = [name for name in {HEAVY!r} if name in sys.modules]
print(json.dumps(found))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {" ".join(arguments): [] for arguments in LIGHT}


@pytest.mark.parametrize(("words", "wanted"), [("tangovlm as", "ask"), ("tangovlm ask --ret", "--retention")])
def test_completion_imports_no_heavy_package(words: str, wanted: str) -> None:
    program = f"""
import sys
from tangovlm.cli import main
try:
    main([])
finally:
    print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""
    variables = {"_TANGOVLM_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=os.environ | variables
    )
    assert wanted in done.stdout.split()
    assert done.stderr.strip() == "[]"


def test_catalog_is_the_registry() -> None:
    assert catalog.saved() == catalog.registered(), "run: python scripts/readme_tables.py"
    assert catalog.FILE.read_text(encoding="utf-8") == catalog.registered().as_json()


def test_default_of_an_option_is_that_of_the_library() -> None:
    assert THRESHOLD == SINK_THRESHOLD
    assert DRAWN == DRAWN_CLIPS


def test_short_options(tangovlm_command: Run) -> None:
    assert tangovlm_command("-V").out == f"tangovlm {tangovlm.__version__}\n"
    assert tangovlm_command("-h").out == tangovlm_command("--help").out
    assert "--retention" in tangovlm_command("ask", "-h").out
    assert "--install-completion" in tangovlm_command("-h").out


def test_the_package_resolves_its_names_in_any_order() -> None:
    program = """
import tangovlm, sys
assert "torch" not in sys.modules
import tangovlm.methods.tango
assert tangovlm.methods()["tango"] is tangovlm.Tango
assert tangovlm.budget.count(0.1, 6272) == 627
assert {"Tango", "ask", "methods"} <= set(dir(tangovlm))
assert not hasattr(tangovlm, "nothing") and not hasattr(tangovlm, "__wrapped__")
"""
    subprocess.run([sys.executable, "-c", program], check=True)


# --- spinner ---------------------------------------------------------------------------------------------------------


def on_a_terminal(*command: str, until: str) -> tuple[str, int]:
    """What a program writes to a terminal until a text occurs or the program ends, and its status if interrupted."""
    main_end, its_end = pty.openpty()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=its_end,
        env=os.environ | {"TERM": "xterm"},
        start_new_session=True,
    )
    os.close(its_end)
    text = ""
    try:
        while until not in text:
            text += os.read(main_end, 4096).decode(errors="replace")
    except OSError:
        pass
    finally:
        process.send_signal(signal.SIGINT)
        status = process.wait(30)
        os.close(main_end)
    return text, status


def test_spinner_comes_before_torch() -> None:
    """The spinner is visible while the program imports a package that blocks until it is interrupted."""
    program = """
import signal, sys, time
# A program that a shell started in the background ignores it, and so do its children.
signal.signal(signal.SIGINT, signal.default_int_handler)
class Blocking:
    def find_spec(self, name, *_):
        if name == "torch":
            time.sleep(60)
sys.meta_path.insert(0, Blocking())
from tangovlm.cli import main
sys.exit(main(["ask", "clip.mp4", "What?"]))
"""
    text, status = on_a_terminal(sys.executable, "-c", program, until="starting")
    assert "starting" in text
    assert status == 130


def test_spinner_ends_with_the_first_output(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []

    class Spinner(Thread):
        ended = SimpleNamespace(set=lambda: ended.append(True))

    monkeypatch.setattr(spinner, "_spinner", Spinner())
    log("a line")
    spinner.stop()
    assert ended == [True]


def test_no_spinner_without_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    spinner.start("starting")
    spinner.update("loading")
    spinner.stop()
    assert capfd.readouterr() == ("", "")


# --- interruption and full disks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["tangovlm.cli.app", "torch"])
def test_interruption_while_packages_are_imported(where: str, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    clip.touch()
    program = f"""
import sys
class Interrupted:
    def find_spec(self, name, *_):
        if name == {where!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
from tangovlm.cli import main
sys.exit(main(["ask", {str(clip)!r}, "What?"]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "tangovlm: interrupted\n")


def test_an_interruption_that_became_another_error(tangovlm_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object, **__: object) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise ImportError("initialization failed") from error

    monkeypatch.setattr("tangovlm.cli.commands.methods.saved", load)
    outcome = tangovlm_command("methods")
    assert (outcome.status, outcome.err) == (130, "tangovlm: interrupted\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [("methods",), ("-V",)])
def test_stdout_on_a_full_disk(arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "tangovlm", *arguments]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("tangovlm: cannot write the output: No space left on device")
    assert done.stderr.count("\n") == 1


def test_a_file_on_a_full_disk(tmp_path: Path) -> None:
    """Errors of files that are written as they grow name the file."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    program = f"""
import sys
from tangovlm.cli import main
from tangovlm.cli.commands import methods
def write():
    with open({str(tmp_path / "rows")!r}, "w") as file:
        file.write("x" * 10000)
methods.saved = write
sys.exit(main(["methods"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, preexec_fn=limit
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "File too large" in done.stderr


def test_a_reader_that_leaves() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "tangovlm", "methods", "--json"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_an_import_error_of_our_own_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> None:
        raise ModuleNotFoundError("No module named 'tangovlm.nothing'", name="tangovlm.nothing")

    monkeypatch.setattr("tangovlm.cli.commands.methods.saved", load)
    with pytest.raises(ModuleNotFoundError):
        main(["methods"])
