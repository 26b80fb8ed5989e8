"""Does data flow pay? Merges, stacks and both, at equal numbers of scored items.

    python benchmarks/study_dataflow.py [--only zoo/joint] [--seeds 1 2 3] [--json]

For every setting, variant and seed one ordinary study, all in one database; the winner
of each, the best proposed candidate on search items, is scored on held-out items, and
the tables and the plot of ``docs/dataflow.md`` are written anew. What is finished is
skipped, and what was cut off goes on where it was. The models are made if need be.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

# Two engines share two cores; more threads on small tensors mostly wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from dataflow.crew import clock, work
from dataflow.page import write
from dataflow.search import Place, Result, load
from dataflow.setting import VARIANTS, Job, Setting, depths_setting, zoo_setting

PAGE = Path(__file__).parents[1] / "docs" / "dataflow.md"
SECONDS = {"zoo": 0.6, "depths": 0.4}
"""Of one core, a candidate; for the estimate before anything has been measured."""
START_S = 20.0
"""Start of the engine, twice, and the held-out items."""

Work = list[tuple[Setting, Job]]


def study(
    todo: Work, place: Place, n_processes: int, page: Path
) -> tuple[list[Result], int]:
    """Do what is not done yet, and write the page after each search.

    Returns:
        All results, and how many of them are new.
    """
    known = [load(place, job) for _, job in todo]
    results = [one for one in known if one is not None]
    missing = [pair for pair, one in zip(todo, known, strict=True) if one is None]
    settings = list(dict.fromkeys(setting.name for setting, _ in todo))
    titled = [next(s for s, _ in todo if s.name == name) for name in settings]

    def on_result(result: Result) -> None:
        results.append(result)
        write(page, titled, results)

    work(missing, place, n_processes, on_result)
    write(page, titled, results)
    return results, len(missing)


def estimate(todo: Work, place: Place, n_processes: int) -> float:
    """Return the seconds that the missing searches will take."""
    seconds = 0.0
    for _, job in todo:
        done = [load(place, other) for _, other in todo if other.setting == job.setting]
        took = [one.seconds for one in done if one is not None]
        usual = START_S + SECONDS.get(job.setting, 1.0) * place.trials
        if load(place, job) is None:
            seconds += sum(took) / len(took) if took else usual
    return seconds / n_processes


def main() -> None:
    """Make the models, search, write, print."""
    given = _parser().parse_args()
    todo = _todo(given)
    place = Place(given.folder.resolve(), given.trials)
    place.folder.mkdir(parents=True, exist_ok=True)
    n_new = sum(load(place, job) is None for _, job in todo)
    took = clock(estimate(todo, place, given.processes))
    sys.stderr.write(
        f"{len(todo)} searches of {place.trials} candidates, {n_new} not done yet: "
        f"about {took} with {given.processes} processes\n"
    )
    results, _ = study(todo, place, given.processes, given.page)
    if given.json:
        print(json.dumps([asdict(one) for one in results], indent=1))
    else:
        print(f"{len(results)} results in {given.page}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", nargs="+", default=[], help="SETTING, or with /VARIANT"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--trials", type=int, default=160, help="candidates a search")
    parser.add_argument("--processes", type=int, default=2, help="searches at once")
    parser.add_argument("--engine", default="hf", choices=("hf", "vllm"))
    parser.add_argument("--zoo", type=Path, default=Path("demo/zoo"))
    parser.add_argument("--depths", type=Path, default=Path("demo/depths"))
    parser.add_argument("--folder", type=Path, default=Path("demo/dataflow"))
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--json", action="store_true", help="print all results")
    return parser


def _todo(given: argparse.Namespace) -> Work:
    """List the searches, a seed at a time, so that an early end has all variants."""
    settings = _settings(given)
    return [
        (setting, Job(setting.name, variant, seed))
        for seed in given.seeds
        for setting in settings
        for variant in VARIANTS
        if _is_wanted(given.only, setting.name, variant)
    ]


def _is_wanted(only: Sequence[str], setting: str, variant: str) -> bool:
    return not only or setting in only or f"{setting}/{variant}" in only


def _settings(given: argparse.Namespace) -> list[Setting]:
    from evomerge.zoo import make_depth_pair, make_zoo

    zoo, pair = given.zoo.resolve(), given.depths.resolve()
    make_zoo(zoo)
    make_depth_pair(pair, zoo / "base")
    engine = given.engine
    return [zoo_setting(zoo, engine), depths_setting(pair, zoo, engine)]


if __name__ == "__main__":
    main()
