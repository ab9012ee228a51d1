"""Makes a CUDA build of torchvision importable beside a CPU build of torch, in the environment of `make test-vllm`.

That build says how results of its operators are shaped without having the operators, which torch refuses. Here they get
a declaration, and no code, as soon as torchvision is looked for: vLLM looks at models in processes of its own, so the
Makefile has every interpreter of the environment import this module at its start.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any

_OPERATORS = ("nms", "qnms")


class _Declarations(MetaPathFinder):
    """Finds nothing itself; what it declares lives as long as it does."""

    _library: Any = None

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        if fullname != "torchvision" or self._library is not None:
            return
        # Only now, as most interpreters of the environment never need torch.
        import torch

        self._library = torch.library.Library("torchvision", "FRAGMENT")
        for name in _OPERATORS:
            self._library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


sys.meta_path.insert(0, _Declarations())
