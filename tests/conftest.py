"""What all tests share: one hypothesis profile, reproducible where a red run must be repeated elsewhere."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "tangovlm",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("tangovlm")
