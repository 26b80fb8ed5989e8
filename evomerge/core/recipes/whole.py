"""One parent, unchanged, as a recipe: baselines, self-tests and hand-made checks."""

from evomerge.core.recipes.recipe import (
    VERSION,
    Checkpoint,
    Input,
    Operation,
    Recipe,
    Slot,
)


def passthrough(
    name: str,
    source: Input | str,
    n_layers: int,
    dtype: str,
    *,
    version: int = VERSION,
) -> Recipe:
    """Write the recipe whose merge is one parent as it stands.

    Args:
        name: What the parent is called among the recipe's inputs; also its frame.
        source: The parent; a plain one may be named by its fingerprint alone.
        n_layers: Layers of the parent; slot i takes layer i.
        dtype: Element type of the result.
        version: Of the recipe.
    """
    # A weighted mean of one input: the weight cancels, the values pass untouched.
    keep = Operation(
        "linear", (name,), shared=(("normalize", True),), each=(("weight", (1.0,)),)
    )
    roles = (("*", keep),)
    taken = Checkpoint(source) if isinstance(source, str) else source
    return Recipe(
        frame=name,
        dtype=dtype,
        inputs=((name, taken),),
        embed=Slot(roles),
        slots=tuple(Slot(roles, layers=((name, i),)) for i in range(n_layers)),
        head=Slot(roles),
        version=version,
    )
