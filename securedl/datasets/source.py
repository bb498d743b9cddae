"""What is known of a data set before a byte of it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

DataArray = npt.NDArray[Any]
#: Samples [rows, ...] and labels [rows], the official training part first.
Arrays = tuple[DataArray, DataArray]


@dataclass(frozen=True)
class File:
    """One file of the official source. `urls` are tried in order; none means: by hand only."""

    name: str
    urls: tuple[str, ...] = ()
    #: "md5:..." or "sha256:..." as published, or None where the source publishes none.
    checksum: str | None = None
    #: No answer longer than this many bytes is read.
    limit: int = 16 << 20


@dataclass(frozen=True)
class Variant:
    """One form of a data set: complete, or a stated part of it.

    `file` is the normalised file; `train_rows` of its `rows` are the official training part, None without
    one; `digest` is `securedl.datasets.store.digest` of the arrays, None where it could not be computed from
    a complete copy: then the checksums of the official files and the rows of each class, `counts`, stand in.
    `embedded` names a loader of scikit-learn with the same arrays. A variant that is not `automatic` is
    loaded only if asked for by name.
    """

    name: str
    file: str
    rows: int
    train_rows: int | None = None
    digest: str | None = None
    counts: tuple[int, ...] = ()
    embedded: str | None = None
    automatic: bool = True


@dataclass(frozen=True)
class Source:
    """A data set: what it is, whose it is, where it comes from, and how to read it.

    `sample` is the shape of one sample: (features,), (height, width) or (height, width, 3). The first of
    `variants` is the complete set. `parse` takes the official files by name.
    """

    name: str
    title: str
    sample: tuple[int, ...]
    classes: tuple[str, ...]
    licence: str
    citation: str
    page: str
    variants: tuple[Variant, ...]
    features: tuple[str, ...] = ()
    files: tuple[File, ...] = ()
    parse: Callable[[Mapping[str, Path]], Arrays] | None = None
    #: What to do where no program may fetch the files.
    by_hand: str = ""

    @property
    def full(self) -> Variant:
        """The complete set."""
        return self.variants[0]

    @property
    def table(self) -> bool:
        """Whether samples are rows of a table, not images."""
        return len(self.sample) == 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the samples."""
        return np.dtype(np.float64 if self.table else np.uint8)
