"""The options of `approximate`, checked before any work."""

from __future__ import annotations

from securedl.activations.tune import Recipe
from securedl.arguments import boolean, count, number
from securedl.errors import InputError


def check_options(
    recipe: Recipe,
    *,
    degree: int,
    bound: float | None,
    quantile: float,
    epochs: int | None,
    seed: int,
    **flags: bool,
) -> None:
    """Refuse what is no number or no flag, and numbers out of range; arguments as for `approximate`.

    Raises:
        InputError: so it is.
    """
    count(degree, "degree", least=1)
    for name, value in flags.items():
        boolean(value, name)
    count(recipe.batch_size, "batch_size", least=1)
    count(seed, "seed")
    if epochs is not None:
        count(epochs, "epochs", least=0)
    if bound is not None:
        number(bound, "bound", above=0)
    number(quantile, "quantile")
    for name in ("learning_rate", "temperature", "range_penalty", "distillation"):
        number(getattr(recipe, name), name)
    if not 0 <= quantile < 0.5:
        raise InputError(
            f"quantile must be at least 0 and below 0.5, got {quantile}; 0.001 leaves out one value in a "
            "thousand at either end"
        )
    for name in ("learning_rate", "temperature"):
        if not 0 < getattr(recipe, name) < float("inf"):
            raise InputError(f"{name} must be a number greater than 0, got {getattr(recipe, name)}")
    if not 0 <= recipe.range_penalty < float("inf"):
        raise InputError(f"range_penalty must be 0 (none) or greater, got {recipe.range_penalty}")
    if not 0 <= recipe.distillation <= 1:
        raise InputError(
            f"distillation must be between 0 (labels only) and 1 (the original's logits only), "
            f"got {recipe.distillation}"
        )
