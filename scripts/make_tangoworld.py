"""Write the questions of the benchmark tangoworld into the package: `python scripts/make_tangoworld.py VERSION [FILE]`.

FILE is by default the file that `tangovlm eval` reads. Run this only for a new version of the benchmark:
results of one version are compared with each other, so its questions never change.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tangovlm.evaluate.tangoworld import VERSIONS, benchmark, draw_questions, to_json_lines


def main(arguments: Sequence[str]) -> int:
    """Write the file and print the number of its clips."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", type=int, choices=VERSIONS, metavar="VERSION", help="version of the benchmark")
    parser.add_argument("file", type=Path, nargs="?", metavar="FILE", help="file to write")
    options = parser.parse_args(arguments)
    of = benchmark(options.version)
    target: Path = options.file or of.file
    cases = [case for cell in range(len(of.cells)) for case in draw_questions(cell, of)]
    target.write_text(to_json_lines(cases), encoding="utf-8")
    print(f"{target}: {len(cases)} clips")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
