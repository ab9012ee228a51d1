"""Train the embedded model from scratch: `python -m tangovlm.tiny.train --run RUN_DIR`.

The four stages are the vision tower, the cache of encoded clips, the language model, and the export. Each can be
interrupted and resumes from its last checkpoint when the command is run again. Seeds are fixed. CUDA is used if
available.
"""

import argparse
from pathlib import Path

import torch

from . import cache, language, tower
from .export import export
from .recipe import recipe
from .synthetic.worlds import VERSIONS
from .tokenizer import build_tokenizer

STAGES = ("tower", "cache", "language", "export")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tangovlm.tiny.train", description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("tiny-run"), help="directory of checkpoints and cached clips")
    parser.add_argument(
        "--earlier", type=Path, help="run or checkpoint directory whose trained weights are the starting point"
    )
    parser.add_argument("--world", type=int, choices=VERSIONS, default=1, help="version of the synthetic world")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--tower-steps", type=int, default=None)
    parser.add_argument("--language-steps", type=int, default=None)
    parser.add_argument("--clips", type=int, help="number of clips that the language stage trains on")
    parser.add_argument(
        "--workers", type=int, default=1, help="number of processes that render frames and build lessons"
    )
    parser.add_argument("--threads", type=int, default=0, help="number of threads of the training process; 0 for all")
    parser.add_argument("--output", type=Path, help="directory of the exported checkpoint, by default in the package")
    args = parser.parse_args(argv)
    of = recipe(args.world)
    args.run.mkdir(parents=True, exist_ok=True)
    if args.threads:
        torch.set_num_threads(args.threads)
    if "tower" in args.stages:
        tower.train_tower(args.run, args.tower_steps or of.tower_steps, args.workers, args.earlier, of.world)
    if "cache" in args.stages:
        cache.cache_clips(args.run, "held-out", of.held_out_clips, of)
        cache.cache_clips(args.run, "train", args.clips or of.clips, of)
    if "language" in args.stages:
        language.train_language(args.run, of, args.language_steps, args.clips, args.workers, args.earlier)
    if "export" in args.stages:
        export(language.load_language(args.run), build_tokenizer(of.world), args.output or of.weights, of.frames)


if __name__ == "__main__":
    main()
