"""Which engine kinds there are, each loaded only when it is asked for."""

from pathlib import Path
from typing import Any

from evomerge import plugins
from evomerge.checkpoints.configs.families import gives_reward
from evomerge.checkpoints.documents import read_json
from evomerge.core.policy import in_force
from evomerge.core.work import WorkerSetup, engine_problem
from evomerge.errors import Problem, SpecError
from evomerge.scoring.engine import Engine
from evomerge.specs.permitted import option_refusals


def open_engine(setup: WorkerSetup) -> Engine:
    """Start the engine a worker is told to run; the caller closes it.

    Raises:
        SpecError: There is no such engine, its library is missing, or it does not
            know one of the options, or the policy in force forbids one.
        CheckpointError: The frame cannot be loaded.
        WorkerError: The engine or machine failed.
    """
    kind = setup.engine.kind
    if (policy := in_force()) is not None:
        found = option_refusals(policy, setup.engine.options, "engine.options")
        if problems := [Problem(key, said) for key, said in found]:
            raise SpecError(problems)
    if kind == "vllm":
        from evomerge.scoring.vllm.engine import VllmEngine

        return VllmEngine(setup)
    if kind == "hf" and gives_reward(
        read_json(Path(setup.sources[setup.frame]) / "config.json")
    ):
        from evomerge.scoring.hf.reward_engine import RewardEngine

        return RewardEngine(setup)
    if kind == "hf":
        from evomerge.scoring.hf.engine import HfEngine

        return HfEngine(setup)
    if kind == "simulated":
        from evomerge.scoring.simulated.engine import SimulatedEngine

        return SimulatedEngine(setup)
    if (said := engine_problem(kind)) is not None:
        raise SpecError([Problem("engine.kind", said)])
    part: Any = plugins.find("engines", kind)
    engine: Engine = part(setup)
    return engine
