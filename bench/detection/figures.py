"""The papers' figures, %, to stand beside ours: network, attack, form of output, number of samples."""

from __future__ import annotations

#: VerIDeep (He et al., arXiv 1808.03277), sensitive samples chosen by MANC.
_FORMS = ("top-1", "top-3", "top-5", "top-1-p-dec2", "p-dec-1", "p-dec-2")
_TABLES: dict[tuple[str, str], dict[int, tuple[float, ...]]] = {
    ("faces, VGG-16", "trojan"): {  # Table III
        1: (94.1, 100, 100, 99.6, 99.8, 100),
        2: (99.8, 100, 100, 100, 100, 100),
        3: (100,) * 6,
        5: (100,) * 6,
    },
    ("signs, CNN", "poisoned, generic"): {  # Table IV
        1: (87.68, 100, 100, 88.76, 88.76, 88.76),
        2: (99.97, 100, 100, 99.87, 99.98, 100),
        3: (99.99, 100, 100, 100, 99.99, 100),
        5: (100,) * 6,
        8: (100,) * 6,
        10: (100,) * 6,
    },
    ("signs, CNN", "poisoned, specific"): {  # Table V
        1: (97.90, 100, 100, 100, 100, 100),
        2: (99.97, 100, 100, 100, 100, 100),
        3: (100,) * 6,
        5: (100,) * 6,
        8: (100,) * 6,
        10: (100,) * 6,
    },
    ("CIFAR-10, CNN", "8 bits"): {  # Table VI
        1: (50.29, 100, 100, 49.79, 54.07, 71.21),
        2: (84.68, 100, 100, 69.92, 89.13, 94.45),
        3: (95.23, 100, 100, 87.94, 97.71, 99.25),
        5: (99.14, 100, 100, 98.92, 99.78, 99.99),
        8: (99.87, 100, 100, 99.98, 100, 100),
        10: (99.96, 100, 100, 100, 100, 100),
    },
}


def paper(network: str, attack: str, output: str, samples: int) -> float | None:
    """What the paper says, or nothing."""
    row = _TABLES.get((network, attack), {}).get(samples)
    return None if row is None or output not in _FORMS else row[_FORMS.index(output)]
