"""What a server, or whoever alters a network, might run instead: for tests and benchmarks. Each is seeded.

Every attack returns a new network and leaves the given one alone. Those here change numbers, of a `Graph` or
of a torch module alike; those that train are in `securedl.verify.attacks.training`, which imports torch.

    tampered = weight_noise(network, seed=1, fraction=0.001)
"""

from securedl.verify.attacks.weights import (
    ATTACKS,
    changes,
    half_precision,
    pruned,
    quantised,
    scaled_weight,
    shifted_bias,
    swapped_rows,
    weight_noise,
    zeroed_weights,
)

__all__ = [
    "ATTACKS",
    "changes",
    "half_precision",
    "pruned",
    "quantised",
    "scaled_weight",
    "shifted_bias",
    "swapped_rows",
    "weight_noise",
    "zeroed_weights",
]
