"""How good the zoo's models and their plain merges are, zoo by zoo.

Prints the table of ``docs/zoo.md``. Makes the zoos that are missing (about two minutes
each on two idle cores) and scores every held-out question of the four tasks by one
forward pass, without an engine.

    python benchmarks/zoo_seeds.py FOLDER --seeds 0 1 2
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from evomerge.zoo import MODELS, make_zoo, score
from evomerge.zoo.folder import read_weights

TASKS = ("en_hard", "en_sort5", "jd_sort4", "jd_sort5")
LAMBDAS = (0.7, 0.8, 0.9, 1.0)

State = Mapping[str, Tensor]


def main() -> None:
    """Make, score, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where zoos are, or go: seed-N")
    parser.add_argument("--recipe", default="P128")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    chosen = parser.parse_args()
    print("| seed | model | " + " | ".join(TASKS) + " | mean | min |")
    print("|---|---|" + "---|" * (len(TASKS) + 2))
    for seed in chosen.seeds:
        folder = chosen.folder / f"seed-{seed}"
        zoo = make_zoo(folder, recipe=chosen.recipe, seed=seed)
        states = {name: read_weights(zoo.models[name]) for name in MODELS}
        for name, state in states.items():
            _row(seed, name, state)
        _row(seed, "uniform", _merge(states, 1 / 3))
        for weight in LAMBDAS:
            _row(seed, f"task arithmetic {weight}", _merge(states, weight))


def _merge(states: Mapping[str, State], weight: float) -> dict[str, Tensor]:
    """Add every expert's difference from the base, times one weight."""
    base, *experts = (states[name] for name in MODELS)
    return {
        key: value + weight * torch.stack([e[key] - value for e in experts]).sum(0)
        for key, value in base.items()
    }


def _row(seed: int, name: str, state: State) -> None:
    scores = [100 * score(state, task) for task in TASKS]
    figures = [*scores, sum(scores) / len(scores), min(scores)]
    cells = " | ".join(f"{figure:.1f}" for figure in figures)
    print(f"| {seed} | {name} | {cells} |", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
