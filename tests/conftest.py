"""What all tests share: one hypothesis profile, reproducible where a red run must be repeated elsewhere.

Workers of pytest-xdist compute with one thread each, as together they have the machine.

Where there is no CUDA device, kernels in Triton run on its interpreter: Triton wants to know when it is imported.
"""

import os

import torch
from hypothesis import HealthCheck, settings

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)

settings.register_profile(
    "tangovlm",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("tangovlm")
