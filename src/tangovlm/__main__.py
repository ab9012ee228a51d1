"""`python -m tangovlm` is the command `tangovlm`."""

from tangovlm.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
