"""What a program takes of its server and of the link, from the program alone: counts, and bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass

from securedl.he.journal import ENTRY
from securedl.he.params import Parameters
from securedl.he.record import packed_key_length, packed_length
from securedl.he.weights import handle_bytes, mappable, mapped_lengths, mapped_starts
from securedl.program.count import Counted, Counter, Counts, SameWeight
from securedl.program.program import Program
from securedl.program.steps import Port, Step

#: Answers in coefficients whose keys are switched at a time.
_SWITCHED = 16
#: Of a session: threads, and buffers of the network.
_SESSION = 6_000_000


@dataclass(frozen=True)
class Work:
    """What one step takes.

    Attributes:
        coefficients: whether its result stands in coefficients, or else in slots. primes: of its inputs.
        weights: ciphertexts or plaintexts. sums: whether it is a matrix or a convolution.
        counts: what its server does. tiles: that it reads.
        down, up: bytes to the client, of a refresh or a tap, and back, of a refresh; 0 otherwise.
    """

    coefficients: bool
    primes: int
    weights: int
    sums: bool
    counts: Counts
    tiles: int
    down: int
    up: int

    @property
    def rotations(self) -> int:
        """Key switches with a Galois key: of inputs, of results, and to merge answers."""
        return self.counts.hoisted + self.counts.turns + self.counts.merges

    @property
    def rows(self) -> int:
        """About how many rows (a residue of each coefficient, for one prime) kernels hold at once for it.

        A key switch takes four rows beside its digits and result; a sum or product has three polynomials
        before it. Answers in coefficients stay where their sums were, and few are switched at a time.
        Measured on seven programs: 0.8 to 1.3 times as many.
        """
        c, p = self.counts, self.primes
        if self.coefficients:
            return 2 * p * self.tiles + 3 * p * c.groups + (p + 4) * min(c.groups, _SWITCHED)
        return 2 * p * self.tiles + (2 * p + 4) * c.hoisted + (6 * p + 4) * (c.groups + c.products)


@dataclass(frozen=True)
class Footprint:
    """Bytes, all but the last two exact.

    Attributes:
        keys: their number. key_bytes, weight_bytes: of the upload, beside `program_bytes`.
        query, down, up, taps, answer: of a query and its answer, of all its refreshes to the client and back,
            and of its taps; frames take 0.3 % more.
        disk: of the server, once all weights were used, with the vector back end.
        mapped: of it, weights as kernels read them, which the system keeps in memory as far as there is room.
        loaded: keys in the server's memory, and weights that cannot be mapped; where processors have
            integer multiply-add (IFMA), keys take a third less. working: a query's, about.
    """

    keys: int
    weights: int
    program_bytes: int
    key_bytes: int
    weight_bytes: int
    query: int
    down: int
    up: int
    taps: int
    answer: int
    disk: int
    mapped: int
    loaded: int
    working: int

    @property
    def upload(self) -> int:
        """Bytes that are sent once."""
        return self.program_bytes + self.key_bytes + self.weight_bytes

    @property
    def traffic(self) -> int:
        """Bytes of a query, both ways."""
        return self.query + self.down + self.up + self.taps + self.answer

    @property
    def memory(self) -> int:
        """Of the server, for this model and one query at a time."""
        return self.mapped + self.loaded + self.working


def works(program: Program) -> list[Work]:
    """Of each step."""
    return list(each_work(program))


def each_work(program: Program) -> Iterator[Work]:
    """The same one by one, for whoever may not want to know all of it."""
    ports, shown = program.ports(), iter(program.shown)
    for step in program.steps:
        yield _work(program, step, ports, *(next(shown) if step.shows else (None, None)))


def _work(program: Program, step: Step, ports: dict[int, Port], sent: Port | None, back: Port | None) -> Work:
    params, reads = program.params, [ports[register] for register in step.reads()]
    counter = Counter(params.ring)
    inputs = [[Counted(port.level)] * port.tiles for port in reads]
    step.run(counter, program.lanes, inputs, SameWeight(program.encrypted))
    weights = 0 if step.first_weight is None else step.weights(ports[step.out])
    down, up = 0 if sent is None else _sent(params, sent), 0 if back is None else _fresh(params, back)
    tiles = sum(port.tiles for port in reads)
    sums = counter.counts.groups > 0
    return Work(
        ports[step.out].coefficients, step.level + 1, weights, sums, counter.counts, tiles, down, up
    )  # fmt: skip


def note_rows(most: dict[int, int], work: Work) -> None:
    """The most rows of any step, by primes: a pool gives memory of one size to nobody who needs another."""
    most[work.primes] = max(work.rows, most.get(work.primes, 0))


def working_rows(done: list[Work]) -> int:
    """Of all steps."""
    most: dict[int, int] = {}
    for work in done:
        note_rows(most, work)
    return sum(most.values())


def footprint(program: Program) -> Footprint:
    """Of the whole program."""
    params, shapes, done = program.params, program.weight_shapes, works(program)
    keys = len(program.rotations) + program.relinearises
    lengths = {shape: packed_length(params, shape) for shape in set(shapes)}
    json, key_bytes = len(program.to_json()), keys * packed_key_length(params)
    weight_bytes = sum(lengths[shape] for shape in shapes)
    stored = json + key_bytes + weight_bytes + ENTRY.size * (keys + len(shapes))
    digits, row = len(params.primes), 8 * params.ring
    loaded = keys * digits * 2 * (digits + 1) * row
    if mappable(params):
        mapped = sum(mapped_lengths(params, shapes))
        stored += mapped_starts(params, shapes)[-1] + ENTRY.size * len(shapes)
    else:
        mapped, loaded = 0, loaded + sum(handle_bytes(params, shapes))
    working = working_rows(done)
    return Footprint(
        keys, len(shapes), json, key_bytes, weight_bytes,
        _fresh(params, program.query), sum(work.down for work in done if work.up),
        sum(work.up for work in done), sum(work.down for work in done if not work.up),
        _sent(params, program.answer), stored, mapped, loaded, working * row + _SESSION,
    )  # fmt: skip


def footprint_of_all(programs: Sequence[Program]) -> Footprint:
    """Of several programs together."""
    parts = (astuple(footprint(program)) for program in programs)
    return Footprint(*map(sum, zip(*parts, strict=True)))


def _fresh(params: Parameters, port: Port) -> int:
    """Bytes of what the client sends."""
    return port.tiles * packed_length(params, port.fresh)


def _sent(params: Parameters, port: Port) -> int:
    """Bytes of what the server sends."""
    return port.tiles * packed_length(params, port.sent)
