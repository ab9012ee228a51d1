"""The command line `tangovlm`: one file per command in `commands/`, and the parts that they share."""

try:
    from .app import app, main
except Exception as error:
    # A package that some command needs is missing or broken: `doctor` reports which one.
    from . import only_doctor
    from .only_doctor import main

    only_doctor.ERROR = error

__all__ = ["app", "main"]
