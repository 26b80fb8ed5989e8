"""Turns genotypes into merges as mergekit-evolve does; a test starts it.

A line is JSON with ``genome`` and ``genotype``; the answer is the merge's YAML as JSON.
"""

import json
import sys


def main() -> None:
    import torch
    from mergekit.evo.genome import ModelGenome, ModelGenomeDefinition

    answers = sys.stdout
    sys.stdout = sys.stderr
    for line in sys.stdin:
        job = json.loads(line)
        genome = ModelGenome(ModelGenomeDefinition.model_validate(job["genome"]))
        genotype = torch.tensor(job["genotype"], dtype=torch.float64)
        start = genome.initial_genotype()
        config = genome.genotype_merge_config(genotype)
        answer = {"yaml": config.to_yaml(), "start": start.flatten().tolist()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
