"""Options of a command from a TOML file and from the environment, for those that the command line lacks.

A flag comes first, then the environment (`SECUREDL_SERVE_MAX_GB` for `--max-gb` of `securedl serve`), then
the file (`max-gb = 64`), then the option's own default.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typer

from securedl.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:  # the package that Python's own was made from
    import tomli as tomllib  # type: ignore[import-not-found]
#: Of environment variables.
VARIABLES = "SECUREDL"


def take_settings(context: typer.Context, path: Path | None) -> Path | None:
    """Callback of an eager option that names a TOML file.

    Raises:
        InputError: the file cannot be read, or it or the environment sets an option that there is not.
    """
    options: Iterable[Any] = context.command.params
    known = {
        option.name.replace("_", "-"): option
        for option in options
        if option.param_type_name == "option" and not option.hidden and not option.is_eager
    }
    _check_environment(context, {*known, "config"})
    if path is not None:
        context.default_map = {known[name].name: value for name, value in _read(path, known).items()}
    return path


def _check_environment(context: typer.Context, known: set[str]) -> None:
    """A variable that is spelled wrong would be an option that is not set."""
    prefix = f"{context.auto_envvar_prefix}_"
    names = {prefix + name.replace("-", "_").upper() for name in known}
    for variable in sorted(os.environ):
        if variable.startswith(prefix) and variable not in names:
            raise InputError(f"the environment sets {variable}, {_unknown(variable, names)}")


def _read(path: Path, known: dict[str, Any]) -> dict[str, Any]:
    try:
        found: dict[str, Any] = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"cannot read the settings in {path}: {error}") from error
    for name, value in found.items():
        if name not in known:
            raise InputError(f"{path} sets {name!r}, {_unknown(name, known)}")
        if not isinstance(value, (str, int, float)):
            raise InputError(f"{path} sets {name} to {value!r}: it must be a text, a number, true or false")
    return found


def _unknown(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return "which is no option" + (f": did you mean {near[0]}?" if near else "")
