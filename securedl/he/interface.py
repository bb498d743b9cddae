"""Arithmetic as programs name it until they are generic in the evaluator's handles."""

from __future__ import annotations

from typing import Any, TypeAlias

from securedl.he import arithmetic
from securedl.he.arithmetic import Group as Group

Handle: TypeAlias = Any
Arithmetic: TypeAlias = arithmetic.Arithmetic[Any]
