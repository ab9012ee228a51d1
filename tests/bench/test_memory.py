"""The memory meters against allocations of known size, and the words for too little of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tangovlm.bench import memory
from tangovlm.bench.memory import TensorBytes, available_bytes, check_fits, describe_out_of_memory, peak_memory
from tangovlm.errors import InputError

Peaks = dict[str, tuple[str, int, int, float]]

CPU = torch.device("cpu")
BYTES = 64 * 10**6
SLACK, MISSING = 8 * 10**6, 10**6


PROGRAM = """
import json
import torch
from tangovlm.bench.memory import peak_memory

def touch(size):
    return int(torch.ones(size, dtype=torch.uint8)[-1])

def pieces():
    return sum(int(piece[0]) for piece in [torch.ones(16_000) for _ in range(1000)])

def measure(call):
    peak = peak_memory(call, torch.device("cpu"))
    return [peak.meter, peak.result, peak.extra_bytes, peak.extra_mb]

touch(100)
found = {"known": measure(lambda: touch(64_000_000))}
touch(192_000_000)
found["earlier peak"] = measure(lambda: touch(10))
assert pieces() == 1000
found["pieces"] = measure(pieces)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> Peaks:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    peaks: Peaks = json.loads(done.stdout)
    return peaks


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of the resident memory")
class TestResident:
    """In a process of their own: memory that other tests left and that is freed during a call would be missing."""

    def test_known_size(self, found: Peaks) -> None:
        meter, result, extra, megabytes = found["known"]
        assert (meter, result) == ("resident", 1)
        # The kernel counts pages in batches, so a few may be missing.
        assert BYTES - MISSING < extra < BYTES + SLACK
        assert megabytes == extra / 1e6

    def test_an_earlier_peak_does_not_count(self, found: Peaks) -> None:
        assert found["earlier peak"][2] < SLACK

    def test_many_small_pieces_that_were_free_already_do_count(self, found: Peaks) -> None:
        _, result, extra, _ = found["pieces"]
        assert result == 1000
        assert BYTES - SLACK < extra < BYTES + 2 * SLACK


class TestTensorBytes:
    def test_what_lives_together(self) -> None:
        with TensorBytes() as held:
            first = torch.ones(1000)
            second = torch.ones(500)
            del first
            third = torch.ones(700)
            del second, third
        assert held.peak == 6000

    def test_views_and_writing_in_place_are_free(self) -> None:
        with TensorBytes() as held:
            values = torch.ones(10, 100)
            values.view(-1)[3:7].add_(1)
            values.mul_(2)
        assert held.peak == 4000

    def test_what_was_there_is_free(self) -> None:
        before = torch.ones(1000)
        with TensorBytes() as held:
            view = before.view(10, 100)
            view += 1
            assert view.sum() == 2000
        assert held.peak < 100

    def test_stands_in_where_the_system_does_not_tell(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(memory, "_RESET", tmp_path / "missing" / "clear_refs")
        peak = peak_memory(lambda: torch.ones(1000).sum().item(), CPU)
        assert (peak.meter, peak.result) == ("tensors", 1000.0)
        assert 4000 <= peak.extra_bytes < 4100


class TestRefusals:
    def test_too_large(self) -> None:
        with pytest.raises(
            InputError, match=r"^a film needs about 1000000\.0 GB of memory on cpu and .* are free: cut it$"
        ):
            check_fits(10**15, CPU, "a film", "cut it")
        check_fits(1, CPU, "a film", "cut it")

    def test_unknown_is_no_reason(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(memory, "available_bytes", lambda device: None)
        check_fits(10**15, CPU, "a film", "cut it")

    def test_an_allocation_that_fails(self) -> None:
        words = r"^a film ran out of memory on cpu \(it needs about 3\.0 GB, \d{16} bytes more .* free now\): cut it$"
        with pytest.raises(InputError, match=words), describe_out_of_memory(3 * 10**9, CPU, "a film", "cut it"):
            torch.empty(1 << 50)

    def test_other_errors_stay(self) -> None:
        with pytest.raises(RuntimeError, match="size of tensor"), describe_out_of_memory(1, CPU, "a film", "cut it"):
            torch.ones(2) + torch.ones(3)

    @pytest.mark.skipif(sys.platform != "linux", reason="the limit is of Linux")
    def test_a_limit_of_the_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import resource

        used = memory._status_bytes("VmSize")
        monkeypatch.setattr(resource, "getrlimit", lambda kind: (used + 10**6, resource.RLIM_INFINITY))
        assert abs((available_bytes(CPU) or 0) - 10**6) < 10**6

    def test_a_container_has_less(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        for name, text in {"max": "5000\n", "current": "4000\n", "stat": "anon 9\ninactive_file 300\n"}.items():
            (tmp_path / f"memory.{name}").write_text(text)
        group = (str(tmp_path), "memory.max", "memory.current", "inactive_file")
        monkeypatch.setattr(memory, "_CONTROL_GROUPS", (group,))
        assert available_bytes(CPU) == 1300
        (tmp_path / "memory.max").write_text("max\n")
        assert (available_bytes(CPU) or 10**9) > 10**6
