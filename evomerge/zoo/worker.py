"""One process that trains one expert: ``python -m evomerge.zoo.worker``.

Finished steps are printed one a line, which is how the builder knows how far it is;
when the builder dies, the next line finds no reader and this process ends too.
"""

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from evomerge.zoo.recipes import EXPERTS, RECIPES
from evomerge.zoo.training import train


def main(arguments: list[str] | None = None) -> None:
    """Train the expert named on the command line and write its weights."""
    parser = argparse.ArgumentParser(prog="evomerge.zoo.worker")
    parser.add_argument("--recipe", choices=sorted(RECIPES), required=True)
    parser.add_argument("--model", choices=EXPERTS, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    base = load_file(chosen.base)
    state = train(RECIPES[chosen.recipe], chosen.model, chosen.seed, base, _report)
    save_file(state, chosen.out)


def _report(step: int) -> None:
    sys.stdout.write(f"{step}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
