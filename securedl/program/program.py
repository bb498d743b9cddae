"""The public program: what the server runs. Shapes, levels and scales only; never a value of the network.

A program is a straight line of steps over numbered registers. A register holds a list of ciphertexts,
its *tiles*. In the slot form a tile has n = N/2 slots, `width` features for `batch` samples, interleaved:
slot = feature · batch + sample. BGV has two such rows, with half of the samples in each. In the coefficient
form the client alone knows what stands where. A refresh may turn one form into the other, as the client does
it; nothing else does.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, get_args, get_origin, get_type_hints

from securedl.errors import FormatError
from securedl.he.params import Parameters
from securedl.he.record import Shape
from securedl.he.scheme import Scheme
from securedl.he.schemes import scheme_of
from securedl.program.count import Counted, Counter, Counts, SameWeight
from securedl.program.kinds import STEPS
from securedl.program.steps import MAX_TILES, Port, Step, require

VERSION = 2
MAX_STEPS = 1 << 12
MAX_DIAGONALS = 1 << 18
#: Steps, blocks and spans as they are written: of the largest network measured there are 700.
MAX_OBJECTS = 1 << 13
MAX_BATCH = 1 << 14


@dataclass(frozen=True)
class Program:
    """Everything the server may know.

    Attributes:
        batch: samples of a query. width: features in a ciphertext of slots; 0 where there is none.
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
        self._ports  # noqa: B018 - checked now, kept for later

    @cached_property
    def _ports(self) -> dict[int, Port]:
        return check_program(self)

    @property
    def scheme(self) -> Scheme:
        """That of the parameters.

        Raises:
            CompileError: it is not available.
        """
        return scheme_of(self.params)

    @property
    def rows(self) -> int:
        """Rows of slots that rotate by themselves; a batch is spread over them."""
        return self.scheme.slots(self.params.ring)[0]

    @property
    def lanes(self) -> int:
        """Samples in a row: slots from one feature to the next."""
        return self.batch // self.rows

    @property
    def weight_shapes(self) -> list[Shape]:
        """Shape of every weight, in order: diagonals, biases, constants."""
        ports = self.ports()
        return [shape for step in self.steps for shape in step.shapes(self, [ports[r] for r in step.reads()])]

    @cached_property
    def counts(self) -> Counts:
        """What running it takes; from running it on a counter."""
        counter, ports = Counter(self.params.ring), self.ports()
        for step in self.steps:
            inputs = [[Counted(ports[r].level)] * ports[r].tiles for r in step.reads()]
            step.run(counter, self.lanes, inputs, SameWeight(self.encrypted))
        return counter.counts

    @property
    def rotations(self) -> tuple[int, ...]:
        """Left rotations in slots that need a Galois key, ascending."""
        return tuple(sorted(self.counts.rotations))

    @property
    def relinearises(self) -> bool:
        """Whether a relinearisation key is needed."""
        return self.counts.relinearised

    @property
    def shown(self) -> list[tuple[Port, Port | None]]:
        """What the server sends (at level 0) before its answer, and what it expects back: of each refresh and
        each tap in order, None for a tap.
        """
        ports = self.ports()
        found: list[tuple[Port, Port | None]] = []
        for step in self.steps:
            if step.shows:
                (sent,) = (ports[r] for r in step.reads())
                found.append((self._low(sent), ports[step.out] if step.refreshes else None))
        return found

    @property
    def refreshes(self) -> list[tuple[Port, Port]]:
        """The same of the refreshes."""
        return [(sent, back) for sent, back in self.shown if back is not None]

    @property
    def taps(self) -> list[Port]:
        """What is sent at the taps."""
        return [sent for sent, back in self.shown if back is None]

    @property
    def hidden(self) -> list[Port]:
        """Results of matrices that the client is not shown."""
        shown = {register for step in self.steps if step.shows for register in step.reads()}
        ports = self.ports()
        return [
            ports[step.out] for step in self.steps if step.diagonals and step.out not in {*shown, self.output}
        ]

    @property
    def answer(self) -> Port:
        """What the server sends in the end."""
        return self._low(self.ports()[self.output])

    def _low(self, port: Port) -> Port:
        """The same switched to level 0."""
        scale = self.scheme.lowered(self.params, port.scale, port.level, 0)
        return replace(port, level=0, scale=scale)

    def ports(self) -> dict[int, Port]:
        """Tiles, level and scale of every register."""
        return dict(self._ports)

    def tiles(self) -> dict[int, int]:
        """Tiles of every register."""
        return {register: port.tiles for register, port in self.ports().items()}

    def to_json(self) -> bytes:
        """Canonical bytes: equal programs give equal bytes."""
        names = {kind: name for name, kind in STEPS.items()}
        fields = _plain(self)
        for step, written in zip(self.steps, fields["steps"], strict=True):
            written["step"] = names[type(step)]
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
        if data.count(b"{") > MAX_OBJECTS:  # before any is built
            raise FormatError(f"a program has at most {MAX_OBJECTS} steps, blocks and spans")
        try:
            fields = json.loads(data)
            version = fields.pop("version")
            if type(version) is not int or version != VERSION:
                raise FormatError(f"the program is not of version {VERSION}: upgrade the older side")
            if len(fields["steps"]) > MAX_STEPS:  # before any is built
                raise FormatError(f"more than {MAX_STEPS} steps")
            program: Program = _build(Program, fields)
            return program
        except FormatError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
            raise FormatError(f"these bytes are not a program: {error}") from error


def _plain(value: Any) -> Any:
    """What JSON knows: a dataclass as a dict. Unlike `dataclasses.asdict` it copies no numbers."""
    if isinstance(value, tuple):
        return [_plain(one) for one in value] if value and dataclasses.is_dataclass(value[0]) else value
    if not dataclasses.is_dataclass(value):
        return value
    return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}


@cache
def _hints(kind: Any) -> list[tuple[str, Any, str]]:
    """Of each field: name, type, and what messages call it."""
    hints = get_type_hints(kind)
    return [(one.name, hints[one.name], f"{kind.__name__}.{one.name}") for one in dataclasses.fields(kind)]


def _build(kind: Any, fields: Any, where: str = "") -> Any:
    """A dataclass from parsed JSON: exact field names, exact scalar types, lists to tuples."""
    hints = _hints(kind)
    if not isinstance(fields, dict) or fields.keys() != {name for name, _, _ in hints}:
        raise FormatError(f"{where or kind.__name__} needs the fields {sorted(name for name, _, _ in hints)}")
    return kind(**{name: _value(hint, fields[name], place) for name, hint, place in hints})


def _value(kind: Any, value: Any, where: str) -> Any:
    if kind is int and type(value) is int and 0 <= value < 1 << 62:  # most are
        return value
    if kind is Step:
        return _build(STEPS[value.pop("step")], value)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _build(kind, value, where)
    if get_origin(kind) is tuple:
        if type(value) is not list:
            raise FormatError(f"{where} must be a list, got {_short(value)}")
        if kind == tuple[int, ...] and set(map(type, value)) == {int} and min(value) >= 0:  # of those, too
            _value(int, max(value), where)
            return tuple(value)
        return tuple(_value(get_args(kind)[0], one, where) for one in value)
    if kind not in (int, float, str, bool):
        raise TypeError(f"{where} has a type that bytes cannot carry: {kind}")
    if type(value) is not kind:
        raise FormatError(f"{where} must be of type {kind.__name__}, got {_short(value)}")
    if kind is int and not 0 <= value < 1 << 62:
        raise FormatError(f"{where} is out of range: {value}")
    if kind is float and not (math.isfinite(value) and value > 0):
        raise FormatError(f"{where} must be a positive number, got {value}")
    return value


def _short(value: Any) -> str:
    return repr(value)[:80] if isinstance(value, str | int | float | None) else type(value).__name__


def check_program(program: Program) -> dict[int, Port]:
    """Every invariant that running a program relies on; the port of every register.

    Raises:
        FormatError: naming the first invariant that fails.
    """
    (rows, slots), levels = program.scheme.slots(program.params.ring), program.params.levels
    require(1 <= program.batch <= MAX_BATCH, f"a batch of {program.batch} samples")
    require(program.width * program.batch in (0, rows * slots), "batch times width is not the slots")
    in_rows = program.width == 0 or program.batch % rows == 0
    require(in_rows, f"a batch of {program.batch} samples for {rows} rows")
    require(
        1 <= program.query.tiles <= MAX_TILES and program.query.level <= levels, "query port out of range"
    )
    require(len(program.steps) <= MAX_STEPS, f"more than {MAX_STEPS} steps")
    require(program.query.exact == program.params.exact, "its query is of another scheme")
    registers: dict[int, Port] = {0: program.query}
    weights = 0
    for number, step in enumerate(program.steps):
        where = f"step {number} ({type(step).__name__})"
        require(step.out not in registers, f"{where} writes a register twice")
        require(step.level <= levels, f"{where} is above the top level")
        first = step.first_weight
        require(first is None or first == weights, f"{where} starts at weight {first}, not {weights}")
        require(all(r in registers for r in step.reads()), f"{where} reads an unwritten register")
        inputs = [registers[r] for r in step.reads()]
        port = step.port(program, inputs, where)
        if first is not None:
            weights += step.weights(port)
        require(weights <= MAX_DIAGONALS, f"more than {MAX_DIAGONALS} weights")
        registers[step.out] = port
    require(program.output in registers, "the output register is never written")
    anywhere = not all(port.coefficients for port in registers.values())
    require(anywhere == (program.width > 0), "it has a width without slots, or slots without a width")
    return registers
