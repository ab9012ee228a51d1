"""The command line `tangovlm`: ask, batch, serve, demo, doctor, eval, methods, models, inspect, bench."""

try:
    from .app import app, main
except Exception as error:
    # A package that some command needs is missing or broken, which `doctor` can tell.
    from . import only_doctor
    from .only_doctor import main

    only_doctor.ERROR = error

__all__ = ["app", "main"]
