"""Small models trained on the spot, and the tasks they are scored on.

The zoo is EvoLLM-JP in miniature: a base, three experts that each learn one thing, and
a skill that none of them has but a good merge does. It needs no download, so the demo
and the tests search over real, trained models on any machine. ``docs/zoo.md`` tells
what is in it and how much of it to believe.
"""

from evomerge.zoo.build import ZooReport, make_zoo
from evomerge.zoo.depths import make_depth_pair
from evomerge.zoo.recipes import MODELS, RECIPES, ZooRecipe
from evomerge.zoo.tasks import TASKS, score, write_tasks
from evomerge.zoo.training import OnStep, counting

__all__ = [
    "MODELS",
    "OnStep",
    "RECIPES",
    "TASKS",
    "ZooRecipe",
    "ZooReport",
    "counting",
    "make_depth_pair",
    "make_zoo",
    "score",
    "write_tasks",
]
