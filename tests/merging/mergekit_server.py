"""Runs mergekit's merges, one a line; started by a test, with mergekit on its path.

A line is JSON with ``file`` and ``out``; the answer is one with ``error``, or empty.
"""

import json
import sys
import traceback
from pathlib import Path

import yaml


def main() -> None:
    from mergekit.config import MergeConfiguration
    from mergekit.io.tasks import LoaderCache
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    answers = sys.stdout
    sys.stdout = sys.stderr
    options = MergeOptions(random_seed=0, quiet=True, write_model_card=False)
    for line in sys.stdin:
        job = json.loads(line)
        answer = {}
        try:
            text = Path(job["file"]).read_text(encoding="utf-8")
            config = MergeConfiguration.model_validate(yaml.safe_load(text))
            LoaderCache.loaders.clear()
            run_merge(config, job["out"], options)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
