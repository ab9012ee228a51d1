"""Kernels in Triton compile for CUDA devices, also where there is none: the interpreter takes more than they do.

Run by itself, this file compiles them all and prints what the test looks at. Triton must not have been imported for
its interpreter then, hence the process of its own.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

_DIM = 3584
_LARGEST_SHARED = 99 << 10  # bytes that every device of compute capability 8 or more has
_TABLES = {"starts": "*i64", "block_starts": "*i64", "block_groups": "*i64"}
_POINTS = {"parts": "*i8", "norms": "*i64"}


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_kernels_compile(tmp_path: Path) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    for capability, kernels in json.loads(done.stdout.splitlines()[-1]).items():
        assert all(kernel["shared"] <= _LARGEST_SHARED for kernel in kernels.values()), capability
        products = {"nearest", "nearest_denser", "nearest_center"}
        assert products == {name for name, kernel in kernels.items() if kernel["tensor_cores"]}, capability


def _compile_all(capability: int) -> dict[str, dict[str, Any]]:
    from tangovlm.kernels.blend import triton as blend
    from tangovlm.kernels.dpc_knn import triton as dpc_knn
    from tangovlm.kernels.dpc_knn import triton_passes as passes
    from tangovlm.kernels.st_rope import triton as st_rope
    from tangovlm.kernels.token_runs import triton as token_runs

    tiled = {**dpc_knn._TILING, "WIDTH": _DIM}
    several = {"NEIGHBORS": 7, "BLOCK": 64}
    pair = dict.fromkeys(("cos_t", "sin_t", "cos_h", "sin_h", "cos_w", "sin_w"), "*fp32")
    kernels: list[tuple[Any, dict[str, str], dict[str, Any]]] = [
        (
            passes.nearest,
            {**_POINTS, **_TABLES, "lists": "*i64", "shares": "i32"},
            {**tiled, "SLOTS": 8, "NEIGHBORS": 7, "INCLUDE_SELF": False},
        ),
        (
            passes.nearest_denser,
            {**_POINTS, **_TABLES, "spread": "*fp64", "order": "*i64", "counts": "*i64", "separation": "*i32"},
            tiled,
        ),
        (
            passes.nearest_center,
            {**_POINTS, **_TABLES, "center_starts": "*i64", "chosen": "*i64", "best": "*i64"},
            tiled,
        ),
        (
            passes.quantise,
            {**_POINTS, "points": "*fp32", "scales": "*fp32", "groups": "*i64", "numbers": "*i64"},
            {"WIDTH": _DIM, "CHUNK": 1024},
        ),
        (passes.summarise, {"lists": "*i64", "nearest": "*i64", "spread": "*fp64"}, {**several, "SLOTS": 64}),
        (passes.denser_neighbor, {"nearest": "*i64", "spread": "*fp64", "separation": "*fp32"}, several),
        (
            blend._blend,
            {
                "values": "*bf16",
                "anchors": "*i64",
                "members": "*i64",
                "stops": "*i64",
                "merged": "*fp32",
                "rest": "fp32",
            },
            {"MEMBERS": blend._MEMBERS, "CHANNELS": blend._CHANNELS},
        ),
        (
            st_rope._rotate,
            {"features": "*fp16", "index": "*i64", "norms": "*fp32", "rotated": "*fp32", **pair},
            {"PAIRS": st_rope._PAIRS},
        ),
        (token_runs._scan, {"points": "*fp32", "limit": "*fp32", "first": "*i64"}, {"CHANNELS": 128}),
    ]
    return {kernel.fn.__name__: _compiled(kernel, types, constants, capability) for kernel, types, constants in kernels}


def _compiled(kernel: Any, types: dict[str, str], constants: dict[str, Any], capability: int) -> dict[str, Any]:
    """Every argument without a type or a value is a count; pointers are aligned as those of tensors are."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    values = {name: constants[name] for name in names if name in constants}
    signature = {name: "constexpr" if name in values else types.get(name, "i32") for name in names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if signature[name].startswith("*")}
    source = ASTSource(fn=kernel, signature=signature, constexprs=values, attrs=aligned)
    options = {name: value for name, value in constants.items() if name.startswith("num_")}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    assert compiled.asm["cubin"]
    return {
        "shared": compiled.metadata.shared,
        "tensor_cores": "wgmma.mma_async" in compiled.asm["ptx"] or "mma.sync" in compiled.asm["ptx"],
    }


if __name__ == "__main__":
    print(json.dumps({capability: _compile_all(capability) for capability in (80, 90)}))
