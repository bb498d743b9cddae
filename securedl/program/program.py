"""The public program: what the server runs. Shapes, levels and scales only; never a value of the network.

A program is a straight line of steps over numbered registers. A register holds a list of ciphertexts,
its *tiles*. A tile has n = N/2 slots, `width` features for `batch` samples, interleaved:
slot = feature · batch + sample.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from securedl.errors import FormatError
from securedl.he.params import Parameters
from securedl.he.record import Shape

VERSION = 1
MAX_TILES = 1 << 12
MAX_STEPS = 1 << 12
MAX_DIAGONALS = 1 << 20


@dataclass(frozen=True)
class Block:
    """The non-zero generalised diagonals of one width x width block of a matrix.

    Attributes:
        output: output tile. source: which of the step's sources. tile: tile of that source.
        diagonals: k, ascending; diagonal k multiplies the input rotated by k features.
    """

    output: int
    source: int
    tile: int
    diagonals: tuple[int, ...]


@dataclass(frozen=True)
class Matvec:
    """out = Σ_source matrix_source · source + bias. Spends one level.

    Attributes:
        giant: g of baby-step giant-step, k = g·i + j.
        folds: rotate-and-sum steps in features, after the products.
        level: of the inputs, which are mod-switched to it; the result is at level - 1.
        scale: of the result. weight_scales: of the diagonals of each source.
        first: index of its first weight; diagonals in the order of `groups`, then a bias for each tile.
    """

    out: int
    sources: tuple[int, ...]
    blocks: tuple[Block, ...]
    tiles: int
    giant: int
    folds: tuple[int, ...]
    level: int
    scale: float
    weight_scales: tuple[float, ...]
    first: int

    def groups(self) -> Iterator[tuple[int, int, list[tuple[int, int, int]]]]:
        """(output tile, giant step i, terms (source, tile, baby step j)) in the order of the weights."""
        table: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
        for block in self.blocks:
            for k in block.diagonals:
                i, j = divmod(k, self.giant)
                table.setdefault((block.output, i), []).append((block.source, block.tile, j))
        for (output, i), terms in sorted(table.items()):
            yield output, i, sorted(terms)

    @property
    def diagonals(self) -> int:
        """Number of encrypted (or plain) diagonals."""
        return sum(len(block.diagonals) for block in self.blocks)

    def rotations(self) -> set[int]:
        """Rotations used, in features."""
        steps = {
            part
            for block in self.blocks
            for k in block.diagonals
            for part in (k % self.giant, k // self.giant * self.giant)
        }
        return (steps | set(self.folds)) - {0}


@dataclass(frozen=True)
class Multiply:
    """out = left · right, tile by tile, then rescaled to `level` - 1. left == right is a squaring."""

    out: int
    left: int
    right: int
    level: int
    scale: float


@dataclass(frozen=True)
class AddWeight:
    """out = source + a weight for each tile (the inner constant of a cubic)."""

    out: int
    source: int
    level: int
    scale: float
    first: int


@dataclass(frozen=True)
class Refresh:
    """The client decrypts `source` and sends it back fresh, at `level` and `scale`, as `tiles` tiles."""

    out: int
    source: int
    level: int
    scale: float


Step: TypeAlias = Matvec | Multiply | AddWeight | Refresh
STEPS: dict[str, type[Any]] = {
    "matvec": Matvec,
    "multiply": Multiply,
    "add_weight": AddWeight,
    "refresh": Refresh,
}


@dataclass(frozen=True)
class Port:
    """Tiles of a register at a point: what crosses the link there."""

    tiles: int
    level: int
    scale: float


@dataclass(frozen=True)
class Program:
    """Everything the server may know.

    Attributes:
        batch: samples in a ciphertext. width: features in a ciphertext.
        encrypted: whether weights are ciphertexts.
        query: the fresh query, register 0.
        output: the register returned, sent at level 0.
    """

    params: Parameters
    batch: int
    width: int
    encrypted: bool
    query: Port
    steps: tuple[Step, ...]
    output: int

    def __post_init__(self) -> None:
        check(self)

    @property
    def weight_shapes(self) -> list[Shape]:
        """Shape of every weight, in order: diagonals, biases, constants."""
        shapes = []
        size = 2 if self.encrypted else 1
        tiles = self.tiles()
        for step in self.steps:
            if isinstance(step, Matvec):
                for _, _, terms in step.groups():
                    shapes += [
                        Shape(step.level, size, step.weight_scales[s], self.encrypted) for s, _, _ in terms
                    ]
                shapes += [Shape(step.level - 1, size, step.scale, self.encrypted)] * step.tiles
            elif isinstance(step, AddWeight):
                shapes += [Shape(step.level, size, step.scale, self.encrypted)] * tiles[step.out]
        return shapes

    @property
    def rotations(self) -> tuple[int, ...]:
        """Left rotations in slots that need a Galois key, ascending."""
        features = set().union(*(step.rotations() for step in self.steps if isinstance(step, Matvec)), set())
        return tuple(sorted(f * self.batch for f in features))

    @property
    def relinearises(self) -> bool:
        """Whether a relinearisation key is needed."""
        return any(isinstance(s, Multiply) or (isinstance(s, Matvec) and self.encrypted) for s in self.steps)

    @property
    def refreshes(self) -> list[tuple[Port, Port]]:
        """What the server sends (at level 0) and what it expects back, for each refresh in order."""
        tiles, ports = self.tiles(), self.ports()
        return [
            (Port(tiles[s.source], 0, ports[s.source].scale), Port(tiles[s.source], s.level, s.scale))
            for s in self.steps
            if isinstance(s, Refresh)
        ]

    @property
    def answer(self) -> Port:
        """What the server sends in the end."""
        port = self.ports()[self.output]
        return Port(port.tiles, 0, port.scale)

    def ports(self) -> dict[int, Port]:
        """Tiles, level and scale of every register."""
        tiles = self.tiles()
        found = {0: self.query}
        for step in self.steps:
            spends = isinstance(step, Matvec | Multiply)
            found[step.out] = Port(tiles[step.out], step.level - spends, step.scale)
        return found

    def tiles(self) -> dict[int, int]:
        """Tiles of every register."""
        counts = {0: self.query.tiles}
        for step in self.steps:
            if isinstance(step, Matvec):
                counts[step.out] = step.tiles
            else:
                counts[step.out] = counts[step.left if isinstance(step, Multiply) else step.source]
        return counts

    def to_json(self) -> bytes:
        """Canonical bytes: equal programs give equal bytes."""
        fields = dataclasses.asdict(self)
        names = {kind: name for name, kind in STEPS.items()}
        fields["steps"] = [{"step": names[type(s)], **dataclasses.asdict(s)} for s in self.steps]
        fields["version"] = VERSION
        return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()

    @property
    def id(self) -> bytes:
        """16 bytes that name the program."""
        return hashlib.sha256(self.to_json()).digest()[:16]

    @staticmethod
    def from_json(data: bytes) -> Program:
        """A checked program from untrusted bytes.

        Raises:
            FormatError: not a program of this version, or one that breaks an invariant.
        """
        try:
            fields = json.loads(data)
            if fields.pop("version") != VERSION:
                raise FormatError(f"the program is not of version {VERSION}: upgrade the older side")
            fields["params"] = _build(Parameters, fields["params"])
            fields["query"] = _build(Port, fields["query"])
            fields["steps"] = tuple(_build(STEPS[s.pop("step")], s) for s in fields["steps"])
            program: Program = _build(Program, fields)
            return program
        except FormatError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
            raise FormatError(f"these bytes are not a program: {error}") from error


def _build(kind: type[Any], fields: dict[str, Any]) -> Any:
    """A dataclass from parsed JSON: exact field names, exact scalar types, lists to tuples."""
    types = {field.name: str(field.type) for field in dataclasses.fields(kind)}
    if not isinstance(fields, dict) or set(fields) != set(types):
        raise FormatError(f"{kind.__name__} needs the fields {sorted(types)}")
    return kind(
        **{name: _value(types[name], value, f"{kind.__name__}.{name}") for name, value in fields.items()}
    )


def _value(kind: str, value: Any, where: str) -> Any:
    if kind.startswith("tuple[") and isinstance(value, list):
        inner = kind[len("tuple[") :].split(",")[0]
        return tuple(_build(Block, v) if inner == "Block" else _value(inner, v, where) for v in value)
    exact: dict[str, type] = {"int": int, "float": float, "str": str, "bool": bool, "tuple": tuple}
    kind = "tuple" if kind.startswith("tuple[") else kind
    if kind in exact and type(value) is not exact[kind]:
        raise FormatError(f"{where} must be of type {kind}, got {value!r}")
    if kind == "int" and not 0 <= value < 1 << 62:
        raise FormatError(f"{where} is out of range: {value}")
    if kind == "float" and not (math.isfinite(value) and value > 0):
        raise FormatError(f"{where} must be a positive number, got {value}")
    return value


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise FormatError(f"bad program: {message}")


def check(program: Program) -> None:
    """Every invariant that running a program relies on; scales match to 1 part in 10^9.

    Raises:
        FormatError: naming the first invariant that fails.
    """
    slots, levels = program.params.slots, program.params.levels
    _require(
        program.batch >= 1 and program.batch * program.width == slots, "batch times width is not the slots"
    )
    _require(
        1 <= program.query.tiles <= MAX_TILES and program.query.level <= levels, "query port out of range"
    )
    _require(len(program.steps) <= MAX_STEPS, f"more than {MAX_STEPS} steps")
    registers: dict[int, Port] = {0: program.query}
    weights = 0
    for number, step in enumerate(program.steps):
        where = f"step {number} ({type(step).__name__})"
        _require(step.out not in registers, f"{where} writes a register twice")
        _require(step.level <= levels, f"{where} is above the top level")
        if isinstance(step, Matvec | AddWeight):
            _require(step.first == weights, f"{where} starts at weight {step.first}, not {weights}")
        if isinstance(step, Matvec):
            port = _check_matvec(program, step, registers, where)
            weights += step.diagonals + step.tiles
        elif isinstance(step, Multiply):
            port = _check_multiply(program, step, registers, where)
        else:
            port = _check_unary(step, registers, where)
            weights += port.tiles * isinstance(step, AddWeight)
        _require(weights <= MAX_DIAGONALS, f"more than {MAX_DIAGONALS} weights")
        registers[step.out] = port
    _require(program.output in registers, "the output register is never written")


def _source(registers: dict[int, Port], register: int, level: int, where: str) -> Port:
    _require(register in registers, f"{where} reads an unwritten register")
    _require(registers[register].level >= level, f"{where} needs a level that its input no longer has")
    return registers[register]


def _check_matvec(program: Program, step: Matvec, registers: dict[int, Port], where: str) -> Port:
    _require(step.level >= 1, f"{where} has no level to spend")
    _require(1 <= step.tiles <= MAX_TILES, f"{where} has {step.tiles} tiles")
    _require(1 <= step.giant <= program.width, f"{where} has a giant step out of range")
    _require(
        len(step.sources) == len(step.weight_scales) >= 1, f"{where} needs a weight scale for each source"
    )
    prime = program.params.primes[step.level]
    for register, weight_scale in zip(step.sources, step.weight_scales, strict=True):
        port = _source(registers, register, step.level, where)
        _require(
            math.isclose(port.scale * weight_scale / prime, step.scale, rel_tol=1e-9), f"{where}: scales"
        )
    for fold in step.folds:
        _require(0 < fold < program.width, f"{where} folds by {fold}")
    seen = set()
    for block in step.blocks:
        _require(
            block.output < step.tiles and block.source < len(step.sources), f"{where}: block out of range"
        )
        _require(block.tile < registers[step.sources[block.source]].tiles, f"{where}: block out of range")
        key = (block.output, block.source, block.tile)
        _require(key not in seen, f"{where} has a block twice")
        seen.add(key)
        ascending = all(a < b for a, b in zip(block.diagonals, block.diagonals[1:], strict=False))
        inside = bool(block.diagonals) and block.diagonals[0] >= 0 and block.diagonals[-1] < program.width
        _require(ascending and inside, f"{where}: diagonals")
    _require(
        {b.output for b in step.blocks} == set(range(step.tiles)), f"{where} leaves an output tile empty"
    )
    return Port(step.tiles, step.level - 1, step.scale)


def _check_multiply(program: Program, step: Multiply, registers: dict[int, Port], where: str) -> Port:
    _require(step.level >= 1, f"{where} has no level to spend")
    left = _source(registers, step.left, step.level, where)
    right = _source(registers, step.right, step.level, where)
    _require(left.tiles == right.tiles, f"{where} multiplies {left.tiles} by {right.tiles} tiles")
    product = left.scale * right.scale / program.params.primes[step.level]
    _require(math.isclose(product, step.scale, rel_tol=1e-9), f"{where}: scales")
    return Port(left.tiles, step.level - 1, step.scale)


def _check_unary(step: AddWeight | Refresh, registers: dict[int, Port], where: str) -> Port:
    source = _source(registers, step.source, 0, where)
    if isinstance(step, AddWeight):
        _require(source.level == step.level, f"{where} is at another level than its input")
        _require(math.isclose(source.scale, step.scale, rel_tol=1e-9), f"{where}: scales")
    return Port(source.tiles, step.level, step.scale)
