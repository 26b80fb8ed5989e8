"""DARE (Yu et al. 2023): drop differences at random and rescale the rest.

The mask of an entry depends on the seed, the operator, the input's name, the tensor's
key and the entry's place, and on nothing else.
"""

from collections.abc import Sequence

from evomerge.core.recipes.settings import Settings
from evomerge.merging.form import Coin, ColumnCoin, Form, Step, Total
from evomerge.merging.operators.executors.merge import LazyMerge
from evomerge.merging.operators.inputs import Inputs
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.loops.counter import Coins, share_of, stream_key
from evomerge.merging.operators.sums.linear import summed
from evomerge.merging.operators.sums.ties import elected
from evomerge.merging.operators.thresholds.sparsify import keep_l1


def dare_linear(inputs: Inputs) -> LazyMerge:
    """Add the weighted sum of randomly thinned differences to the base."""
    settings, deltas = inputs.settings, Deltas.of(inputs)
    thin = drop(settings, deltas, inputs.key, settings.numbers("density"))
    return LazyMerge(deltas, summed(settings, thin), inputs.key)


def dare_ties(inputs: Inputs) -> LazyMerge:
    """Elect signs among randomly thinned differences and merge those who agree."""
    settings, deltas = inputs.settings, Deltas.of(inputs)
    thin = drop(settings, deltas, inputs.key, settings.numbers("density"))
    return LazyMerge(deltas, elected(settings, thin), inputs.key)


def mixout(inputs: Inputs) -> LazyMerge:
    """Put the base back for a part of one input, chosen at random.

    Lee et al. 2019 (1909.11299); in expectation, or without rescaling by parts, it is
    the input mixed with the base. It is DARE of one input.
    """
    deltas = Deltas.of(inputs)
    keep = 1.0 - inputs.settings.number("p")
    thin = drop(inputs.settings, deltas, inputs.key, (keep,))
    return LazyMerge(deltas, Form(Total((1.0,)), thin), inputs.key)


def drop(
    settings: Settings, deltas: Deltas, key: str, densities: Sequence[float]
) -> tuple[Step, ...]:
    """Return the random thinning that the settings ask for.

    Args:
        settings: Read for ``rescale``, ``unit`` and ``seed``.
        deltas: What to thin.
        key: Name of the tensor.
        densities: Probability to keep an entry, for each input.
    """
    rescale, operation = settings.choice("rescale"), settings.operation
    by_column = settings.choice("unit") == "column" and deltas.shape
    steps = []
    for name, density in zip(operation.inputs, densities, strict=True):
        if density >= 1.0:
            steps.append(Step())
            continue
        stream = stream_key(settings.shared["seed"], operation.operator, name, key)
        coin = (
            _columns(stream, density, deltas)
            if by_column
            else Coin(stream, share_of(density))
        )
        factor = 1.0 / density if rescale == "inverse" else 1.0
        steps.append(Step(coin=coin, factor=factor))
    thin = tuple(steps)
    return keep_l1(deltas, thin) if rescale == "l1" else thin


def _columns(stream: int, density: float, deltas: Deltas) -> ColumnCoin:
    columns = deltas.shape[-1]
    coins = Coins(columns, deltas.device)
    return ColumnCoin(coins.flip(stream, slice(0, columns), density))
