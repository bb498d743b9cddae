"""Public data sets: official source -> checked, normalised, cached.

    data = datasets.load("crabs")          # data.x float64 [200, 6], data.y int64 [200]
    data = datasets.load("mnist")          # data.x uint8 [70000, 28, 28]
    x_train, y_train, x_test, y_test = data.split()

A set is looked for in the folder that SECUREDL_DATA names (never written to), in the user's cache folder, in
scikit-learn, and then at its official source. Whatever the place, its values are checked against a digest in
the catalogue. An official file put by hand into either folder is read as if it had been downloaded.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from securedl.datasets import store
from securedl.datasets.catalogue import CATALOGUE
from securedl.datasets.fetch import Patience, download
from securedl.datasets.source import Arrays, DataArray, File, Source, Variant
from securedl.errors import FormatError, InputError, ServerError
from securedl.progress import Progress, Steps, stage

__all__ = [
    "CATALOGUE",
    "Dataset",
    "File",
    "Patience",
    "Place",
    "Source",
    "Variant",
    "fetch",
    "load",
    "names",
    "where",
]

_log = logging.getLogger(__name__)
VARIABLE = "SECUREDL_DATA"


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory.

    `x` is float64 [rows, features], an empty cell of a table NaN, or uint8 [rows, height, width(, 3)];
    `y` is int64 [rows], a label's number being its place in `class_names`. `variant` tells a part from the
    complete set ("cifar10_subset"), `where` the file it came from or "scikit-learn". The first `train_rows`
    rows are the official training part, and the others the test part; None where there is no such split.
    """

    name: str
    variant: str
    where: str
    x: DataArray
    y: DataArray
    feature_names: tuple[str, ...]
    class_names: tuple[str, ...]
    train_rows: int | None

    def split(self) -> tuple[DataArray, DataArray, DataArray, DataArray]:
        """x_train, y_train, x_test, y_test.

        Raises:
            InputError: the set has no official split.
        """
        n = self.train_rows
        if n is None:
            raise InputError(f"{self.variant} has no official split: draw one, with a seed, from x and y")
        return self.x[:n], self.y[:n], self.x[n:], self.y[n:]


@dataclass(frozen=True)
class Place:
    """Where a variant is: `kind` is "SECUREDL_DATA", "cache" or "scikit-learn", which has no path."""

    kind: str
    variant: str
    path: Path | None


def names() -> tuple[str, ...]:
    """Of all data sets."""
    return tuple(CATALOGUE)


def load(
    source: str | Source,
    *,
    variant: str | None = None,
    folder: str | Path | None = None,
    progress: Progress = None,
    patience: Patience | None = None,
) -> Dataset:
    """A data set, fetched if need be.

    Args:
        source: its name, or an entry like those of CATALOGUE.
        variant: one variant and no other, such as "cifar10" where a subset will not do. By default the
            complete set, or the subset if only that is at hand.
        folder: in place of SECUREDL_DATA.
        progress: while files come, stage "download" (in bytes); see `securedl.progress`.
        patience: time limits and tries.

    Raises:
        InputError: the name is unknown, a folder is not there, or the set must be placed by hand.
        FormatError: a file in `folder`, or what the official source sent, is not this data set.
        ServerError: no official address gave its file.
    """
    entry = _entry(source)
    chosen = [v for v in entry.variants if (v.automatic if variant is None else v.name == variant)]
    if not chosen:
        known = ", ".join(v.name for v in entry.variants)
        raise InputError(f"{entry.name} has no variant {variant!r}: use one of {known}")
    data = _data_folder(folder)
    damaged = ""
    for form in chosen:
        if data is not None and (path := data / form.file).exists():
            return _dataset(entry, form, _placed(entry, form, path), str(path))
        if (path := cache_folder() / form.file).exists():
            try:
                return _dataset(entry, form, store.read_table(entry, form, path), str(path))
            except FormatError as error:
                damaged = f"the cached file is damaged ({error}); "
                _log.warning("%sgetting %s again", damaged, form.name)
    for form in chosen:
        if form.embedded:
            return _dataset(entry, form, _embedded(entry, form), "scikit-learn")
    if entry.full not in chosen:
        raise InputError(
            f"{damaged}{chosen[0].file} is a part of {entry.name} that no official source offers: "
            f"set {VARIABLE} to a folder that holds it, or load {entry.full.name!r}"
        )
    path, arrays = _get(entry, data, progress, patience or Patience())
    return _dataset(entry, entry.full, arrays, str(path))


def fetch(
    source: str | Source,
    *,
    folder: str | Path | None = None,
    progress: Progress = None,
    patience: Patience | None = None,
) -> str:
    """Get the complete set from its official source, unless a good copy is at hand, scikit-learn's included.

    Returns where it is: a path, or "scikit-learn".

    Arguments and errors are those of `load`.
    """
    entry, data = _entry(source), _data_folder(folder)
    if data is not None and (path := data / entry.full.file).exists():
        _placed(entry, entry.full, path)
        return str(path)
    if (path := cache_folder() / entry.full.file).exists():
        try:
            store.read_table(entry, entry.full, path)
            return str(path)
        except FormatError as error:
            _log.warning("the cached file is damaged (%s); getting %s again", error, entry.name)
    if entry.full.embedded is not None:
        _embedded(entry, entry.full)
        return "scikit-learn"
    return str(_get(entry, data, progress, patience or Patience())[0])


def where(source: str | Source, *, folder: str | Path | None = None) -> list[Place]:
    """Where the set, or a part of it, is now. Files are not opened.

    The first is what `load` takes; an empty list means it must be fetched.
    """
    entry, data = _entry(source), _data_folder(folder)
    forms = [v for v in entry.variants if v.automatic]
    places = [(kind, p) for kind, p in ((VARIABLE, data), ("cache", cache_folder())) if p is not None]
    files = [Place(kind, v.name, p / v.file) for v in forms for kind, p in places]
    found = [place for place in files if place.path is not None and place.path.exists()]
    return found + [Place("scikit-learn", v.name, None) for v in forms if v.embedded]


def cache_folder() -> Path:
    """Of this user; it need not exist."""
    import pooch

    return Path(pooch.os_cache("securedl")) / "datasets"


def _entry(source: str | Source) -> Source:
    if isinstance(source, Source):
        return source
    if source not in CATALOGUE:
        raise InputError(f"data set {source!r} is unknown: use one of {', '.join(CATALOGUE)}")
    return CATALOGUE[source]


def _data_folder(folder: str | Path | None) -> Path | None:
    given = folder if folder is not None else os.environ.get(VARIABLE) or None
    if given is None:
        return None
    if not Path(given).is_dir():
        raise InputError(f"{VARIABLE if folder is None else 'folder'} names {given}, which is no folder")
    return Path(given)


def _dataset(entry: Source, form: Variant, arrays: Arrays, origin: str) -> Dataset:
    x, y = arrays
    return Dataset(entry.name, form.name, origin, x, y, entry.features, entry.classes, form.train_rows)


def _placed(entry: Source, form: Variant, path: Path) -> Arrays:
    """A file of the user's: read, or refused, but never replaced."""
    try:
        return store.read_table(entry, form, path)
    except FormatError as error:
        raise FormatError(f"{error}. Files of {VARIABLE} are never changed: replace or remove it") from error


def _embedded(entry: Source, form: Variant) -> Arrays:
    from sklearn import datasets

    assert form.embedded is not None
    x, y = getattr(datasets, form.embedded)(return_X_y=True)
    arrays = x.astype("float64"), y.astype("int64")
    store.check_arrays(entry, form, *arrays, f"scikit-learn's {form.embedded}")
    return arrays


def _get(entry: Source, data: Path | None, progress: Progress, patience: Patience) -> tuple[Path, Arrays]:
    """Official files -> checked arrays -> one file in the cache."""
    assert entry.parse is not None, "a set without files is embedded"
    cache = cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the cache folder {cache}: {error.strerror}") from error
    path = cache / entry.full.file
    with ExitStack() as stack:
        try:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache))
        except OSError as error:
            raise InputError(f"cannot write to the cache folder {cache}: {error.strerror}") from error
        told = stack.enter_context(stage("download", progress))
        places = [cache] if data is None else [data, cache]
        files = dict[str, Path]()
        for file in entry.files:
            placed = next((p / file.name for p in places if (p / file.name).is_file()), None)
            before = sum(path.stat().st_size for path in files.values() if path.is_relative_to(scratch))
            steps = partial(_shifted, told, before)
            files[file.name] = placed or _download(entry, file, Path(scratch), steps, patience, data)
        try:
            arrays = entry.parse(files)
            store.check_arrays(entry, entry.full, *arrays, " and ".join(files))
        except FormatError as error:
            raise FormatError(f"{_origin(files, Path(scratch))} not {entry.name}: {error}") from error
        store.write(entry, entry.full, *arrays, path)
    return path, arrays


def _shifted(told: Steps, before: int, done: int, total: int) -> None:
    """Bytes of one file after those of others."""
    told(before + done, before + total if total else 0)


def _origin(files: Mapping[str, Path], scratch: Path) -> str:
    placed = [str(path) for path in files.values() if not path.is_relative_to(scratch)]
    return f"{', '.join(placed)}: this is" if placed else "what the official source sent is"


def _download(
    entry: Source, file: File, scratch: Path, steps: Steps, patience: Patience, data: Path | None
) -> Path:
    place = f"{data} or {cache_folder()}" if data is not None else str(cache_folder())
    if not file.urls:
        raise InputError(f"{entry.name} cannot be fetched. {entry.by_hand} and put that file into {place}")
    try:
        return download(file, scratch, steps, patience)
    except ServerError as error:
        raise ServerError(
            f"cannot fetch {entry.name}. Tried {error}. By hand: get "
            f"{', '.join(f.name for f in entry.files)} (see {entry.page}), put what you get into {place}"
        ) from error
