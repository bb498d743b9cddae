"""compile: from a polynomial PyTorch network to a plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from securedl.arguments import choice, number, shown
from securedl.compiler.candidate import Candidate, cheapest, with_price_of_taps
from securedl.compiler.client import compile_client
from securedl.compiler.cost import COEFFICIENT_PRICES, EXPECTED_QUERIES, CoefficientPrices, SlotsCost
from securedl.compiler.exact import WholeWanted, exact_candidates
from securedl.compiler.fuse import both_ways, fuse
from securedl.compiler.fused import Fused
from securedl.compiler.layered import Apart
from securedl.compiler.layout import lanes
from securedl.compiler.levels import Segments, no_place, operations, place_refreshes
from securedl.compiler.limit import SizeLimit
from securedl.compiler.lower import lower
from securedl.compiler.precision import KEPT_SAMPLES, check_precision, input_limit
from securedl.compiler.quantise import Fineness, check_fineness
from securedl.compiler.rounds import Wanted
from securedl.compiler.straighten import straighten
from securedl.compiler.through import through_candidates
from securedl.errors import CompileError, InputError, UnsupportedLayerError
from securedl.he.params import MAX_MODULUS_BITS, Parameters
from securedl.he.scheme import Scheme
from securedl.he.schemes import scheme_named
from securedl.network.graph import Array, Graph, samples_of
from securedl.network.outputs import Head, Output, task_of
from securedl.network.script import LinearLayer
from securedl.plan.normalised import Normalised
from securedl.plan.plan import Plan
from securedl.plan.signature import Link, Signature
from securedl.program.program import MAX_BATCH
from securedl.progress import Progress, check_progress, stage

if TYPE_CHECKING:
    from torch import nn

#: Rings that the planner tries; 4096 holds one level only and is taken when asked for.
RINGS = (8192, 16384, 32768)
#: Calibration samples used; more moves the ranges by less than the margin that queries have.
CALIBRATION_SAMPLES = 4096
#: Entries of all matrices, times samples, that are computed in the clear for plans in slots, about; but not
#: with fewer samples.
CALIBRATION_WORK, LEAST_SAMPLES = 1 << 33, 256
#: Networks with more entries, those of padding too, are laid out in slots only if no other plan is found.
MOST_ENTRIES = 1 << 25


def compile(
    model: nn.Module,
    x_train: Any,
    *,
    scheme: str = "ckks",
    batch: int | str | None = None,
    weights: str = "encrypted",
    activations: str = "server",
    link: Link | None = None,
    ring: int | None = None,
    refreshes: int | None = None,
    task: str | None = None,
    limit_gb: float = 8.0,
    prices: CoefficientPrices | None = None,
    queries: int = EXPECTED_QUERIES,
    checked_by: str = "owner",
    bits: tuple[int, int, int] | None = None,
    accuracy: float | None = None,
    progress: Progress = None,
) -> Plan:
    """Compile a network for encrypted inference.

    Args:
        model: a network whose activations are polynomials (see `approximate`), in whatever style it is
            written; with activations="client" any network. Its evaluation mode counts; it is left as it was.
        x_train: calibration samples [samples, ...], which set the ranges of all encrypted values. Of a table
            (a DataFrame) the names of the columns are kept: later tables may have them in any order.
        scheme: "ckks" computes with approximate real numbers, "bgv" with whole ones: the network is quantised
            (`bits`), the client rounds at a refresh before each polynomial, and encrypted answers are those
            of the quantised network, bit by bit.
        batch: samples in a ciphertext, rounded up to a power of two; "latency" is 1, "throughput" as many as
            there are slots. With activations="client" samples of a query. By default 64, and 1 with
            activations="client". A ciphertext of "bgv" has two rows, for twice as many samples at one price.
        weights: "encrypted" or "plain" (the server may read the network).
        activations: "server" evaluates polynomials on ciphertexts. With "client" the server computes the
            convolutions and linear layers, and the client, who decrypts after each of them, all that is
            between them, exactly: whatever it is, max pooling and softmax too. It costs a round trip a layer,
            and whoever holds the key sees the values between the layers.
        link: the connection the refreshes will cross; 20 ms and 100 Mbit/s by default.
        ring: force N. refreshes: force their number; with activations="client" there is one after each
            layer but the last, and with scheme="bgv" one before each polynomial, or with 0 none at all: the
            server then computes everything modulo several primes (`Plan.channels`), and no round trip is
            needed but that of the query.
        task: "classes", "binary", "multilabel" or "regression": what an answer's labels are. By default what
            `approximate` found, else by the shape of the answer (`network.outputs.task_of`).
        limit_gb: refuse a plan whose weights take more, in memory while it is prepared or in the upload;
            GB of 10^9 bytes.
        prices: what operations of the coefficient form take (`securedl.client.calibrate`); by default those
            of one core of a Zen 5.
        queries: that one upload will serve, about; they share the price of preparing and sending the weights.
        checked_by: who is to be able to check every answer: "owner", who holds the weights and computes them
            again, or "client" without weights too, by secret combinations. These see one affine map at a
            time, so where a plan has more of them between two refreshes, the server also shows what each one
            gives (a tap: no round trip, but bytes and time), or the planner takes another refresh.
        bits: of inputs, weights and refreshed values, with scheme="bgv"; by default 8 each, or fewer where no
            plain modulus holds such values.
        accuracy: with scheme="bgv", in place of `bits`: the fewest bits are taken with which so large a part
            of the calibration samples (0 to 1) have the labels that they have with the network itself; of
            regression, with which no output differs by more than 1 - accuracy of its range. Calibration data
            that the network was trained on make it optimistic.
        progress: of the work, stage "compile"; see `securedl.progress`.

    Raises:
        UnsupportedLayerError: every operation that cannot be encrypted, with its path, line and remedy.
        CompileError: no plan fits, the graph is not the model, or samples outside what `approximate` saw.
        InputError: a bad argument.
    """
    from securedl.network.given import check_given, known_of

    check_given(model, x_train, "compile")
    check_progress(progress)
    if activations not in ("server", "client"):
        raise InputError(f"activations must be 'server' or 'client', got {activations!r}")
    exact, fineness = choice(scheme, "scheme", ("ckks", "bgv")) == "bgv", check_fineness(bits, accuracy)
    if not exact and (bits is not None or accuracy is not None):
        raise InputError("bits and accuracy are of whole numbers: use them with scheme='bgv'")
    if weights not in ("encrypted", "plain"):
        raise InputError(f"weights must be 'encrypted' or 'plain', got {weights!r}")
    choice(checked_by, "checked_by", ("owner", "client"))
    if ring is not None and (not _whole(ring) or ring not in MAX_MODULUS_BITS):
        raise InputError(f"ring must be one of {sorted(MAX_MODULUS_BITS)}, got {ring!r}")
    number(limit_gb, "limit_gb", above=0)
    if not _whole(queries) or queries < 1:
        raise InputError(f"queries must be a number from 1, got {shown(queries)}")
    if prices is not None and not isinstance(prices, CoefficientPrices):
        raise InputError(
            f"prices: pass what securedl.client.calibrate.measured_prices() gives, got {shown(prices)}"
        )
    if refreshes is not None and (not _whole(refreshes) or refreshes < 0):
        raise InputError(f"refreshes must be a number from 0, got {refreshes!r}")
    if link is not None and not isinstance(link, Link):
        raise InputError(f"link: pass securedl.Link(rtt_ms=..., mbit_s=...), got {shown(link)}")
    ring, refreshes = (None if forced is None else int(forced) for forced in (ring, refreshes))
    known = known_of(model)
    columns, task = known.columns_for(x_train, "x_train"), task or known.task
    x = samples_of(x_train, what="x_train", columns=columns)
    if exact and refreshes and activations == "server":
        raise InputError(
            f"with scheme 'bgv' refreshes are 0 or one before each polynomial, the default; got {refreshes}"
        )
    if activations == "client":
        if refreshes is not None:
            raise InputError(
                "refreshes cannot be chosen with activations='client': there is one after each layer but the "
                "last"
            )
        with stage("compile", progress) as told:
            return compile_client(
                model, _calibration(x), batch=1 if batch is None else batch, encrypted=weights == "encrypted",
                link=link or Link(), ring=ring, columns=columns, task=task, limit_gb=limit_gb,
                prices=prices or COEFFICIENT_PRICES, queries=int(queries),
                fineness=fineness if exact else None, told=told,
            )  # fmt: skip
    asked = Asked(
        _calibration(x), 64 if batch is None else batch, weights == "encrypted", link or Link(), ring,
        refreshes, columns, task, limit_gb, prices or COEFFICIENT_PRICES, int(queries),
        checked_by == "client", fineness if exact else None,
    )  # fmt: skip
    with stage("compile", progress) as told:
        plan = cheapest(Sources(model, asked).all(), told)
        return with_price_of_taps(plan, asked.link, asked.prices)


@dataclass(frozen=True, eq=False)
class Asked:
    """What `compile` is asked with activations="server", checked; see there.

    Attributes:
        x: calibration samples [samples, *shape]. encrypted: the weights. taps: with checked_by="client".
        fineness: with scheme="bgv".
    """

    x: Array
    batch: int | str
    encrypted: bool
    link: Link
    ring: int | None = None
    refreshes: int | None = None
    columns: tuple[str, ...] = ()
    task: str | None = None
    limit_gb: float = 8.0
    prices: CoefficientPrices = COEFFICIENT_PRICES
    queries: int = EXPECTED_QUERIES
    taps: bool = False
    fineness: Fineness | None = None

    def output(self, shape: tuple[int, ...], head: Head) -> Output:
        """What an answer of that shape is."""
        return Output(shape, task_of(shape, head) if self.task is None else self.task, head)

    def wanted(self, output: Output) -> Wanted:
        """The same for plans whose layers are computed one by one."""
        samples = lanes(self.batch, MAX_BATCH)
        return Wanted(
            samples, self.encrypted, self.link, None, self.columns, output, self.limit_gb, self.prices,
            self.queries, self.taps,
        )  # fmt: skip


class Sources:
    """The plans among which the cheapest is taken with activations="server".

    Args:
        model: the network, which is captured once for all of them. asked: of its plan.

    Raises:
        UnsupportedLayerError: see `capture`.
    """

    def __init__(self, model: nn.Module, asked: Asked) -> None:
        from securedl.network.capture import capture

        self.model, self.asked = model, asked
        self.captured = capture(model, asked.x.shape[1:])

    def all(self) -> list[Callable[[], list[Candidate]]]:
        """What gives them; each may raise as `compile` does."""
        if self.asked.fineness is not None:
            return [self.in_whole_numbers]
        return [self.in_slots, self.layer_by_layer, self.mixed] if self._free else [self.in_slots]

    @property
    def _free(self) -> bool:
        """Whether any kind of plan will do."""
        asked = self.asked
        return (
            asked.fineness is None
            and asked.ring is None
            and asked.refreshes is None
            and asked.batch != "throughput"
        )

    @cached_property
    def _imported(self) -> tuple[list[Fused], Output]:
        """The network fused in one way or two, and its output."""
        from securedl.network.compare import check_intervals, check_same
        from securedl.network.from_torch import import_torch

        model, x = self.model, self.asked.x
        most = self._most
        imported = import_torch(self.captured, x.shape[1:])
        check_intervals(model, x)
        step = len(x) * imported.graph.entries // CALIBRATION_WORK
        x = x[:: max(1, min(step, len(x) // LEAST_SAMPLES))]
        output = self.asked.output(imported.output_shape, imported.head)
        check_same(model, imported, x)
        flat, straight = x.reshape(len(x), -1), straighten(imported.graph, most)
        return [Fused(one, flat) for one in both_ways(straight, flat)], output

    @cached_property
    def _most(self) -> int | None:
        """Entries that are looked at in slots: any number where there is no other plan.

        Raises:
            CompileError: the layers have more.
        """
        if not self._free:
            return None
        try:
            layers = self._layered and self._apart[0].found.script.layers
        except (CompileError, UnsupportedLayerError):
            return None
        found = [one.geometry.entries * one.repeat for one in layers if isinstance(one, LinearLayer)]
        if sum(found) > MOST_ENTRIES:
            raise CompileError(
                f"the layers have {sum(found):,} entries: networks with more than {MOST_ENTRIES:,} are laid "
                "out in slots only where nothing else gives a plan"
            )
        return MOST_ENTRIES

    @cached_property
    def _apart(self) -> tuple[Apart, Wanted]:
        apart = Apart.of(self.model, self.asked.x, self.captured)
        output = self.asked.output(apart.found.output_shape, apart.found.head)
        return apart, self.asked.wanted(output)

    def in_slots(self) -> list[Candidate]:
        """All values in slots."""
        (ways, output), asked = self._imported, self.asked
        found, reasons = list[Candidate](), list[CompileError]()
        for network in ways:
            try:
                one = slots_candidate(
                    network, asked.batch, asked.encrypted, asked.link, asked.ring, asked.refreshes,
                    "ckks", asked.columns, output, asked.limit_gb, asked.prices, asked.queries, asked.taps,
                )  # fmt: skip
            except CompileError as reason:
                reasons.append(reason)
            else:
                name = one.name if not found else f"{one.name}, narrow layers apart"
                found.append(replace(one, name=name))
        if not found:
            raise reasons[0]
        return found

    def in_whole_numbers(self) -> list[Candidate]:
        """All values whole, in slots."""
        (ways, output), asked = self._imported, self.asked
        assert asked.fineness is not None
        wish = WholeWanted(
            asked.batch, asked.encrypted, asked.link, asked.prices, asked.queries, asked.ring, asked.fineness,
            asked.columns, asked.limit_gb, asked.taps and asked.refreshes == 0,
        )  # fmt: skip
        candidates = exact_candidates if asked.refreshes is None else through_candidates
        found, reasons = list[Candidate](), list[CompileError]()
        for network in ways:
            try:
                found += candidates(network, wish, output)
            except CompileError as reason:
                reasons.append(reason)
        if not found:
            raise reasons[0]
        return found

    @cached_property
    def _layered(self) -> list[Candidate]:
        apart, wanted = self._apart
        return apart.layer_by_layer(wanted)

    def layer_by_layer(self) -> list[Candidate]:
        """Layers in coefficients, each polynomial by itself in slots."""
        return self._layered

    def mixed(self) -> list[Candidate]:
        """Layers in coefficients, and polynomials with some of the layers in slots."""
        (ways, _), (apart, wanted) = self._imported, self._apart
        below = self._layered[0].ms * wanted.samples
        return [one for network in ways for one in apart.mixed(network, wanted, below)]


def _whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _calibration(x: Array) -> Array:
    if len(x) <= CALIBRATION_SAMPLES:
        return x
    return x[np.random.default_rng(0).choice(len(x), CALIBRATION_SAMPLES, replace=False)]


def slots_candidate(
    fused: Fused,
    batch: int | str,
    encrypted: bool,
    link: Link,
    ring: int | None,
    refreshes: int | None,
    scheme: str = "ckks",
    columns: tuple[str, ...] = (),
    output: Output | None = None,
    limit_gb: float = 8.0,
    prices: CoefficientPrices = COEFFICIENT_PRICES,
    queries: int = EXPECTED_QUERIES,
    taps: bool = False,
) -> Candidate:
    """A plan in slots, by the passes in their order.

    Args:
        columns: names of the features, if any.
        output: what an answer is; a vector by default. taps: see `levels.Segments`.
    """
    rules, network, graph, x = scheme_named(scheme), fused.normalised[0], fused.graph, fused.x
    limit = SizeLimit(limit_gb, network, batch)
    params, chosen = _choose(
        rules, fused, batch, encrypted, link, ring, refreshes, limit, prices, queries, taps
    )
    program, checkpoints, places = lower(params, network, chosen, encrypted)
    limit.check_upload(program, chosen.layouts)
    network = replace(network, places=places)
    signature = Signature(
        (program,), checkpoints, graph.input_shape, network.input_scale, network.input_offset,
        network.output_scale, network.output_offset, 0.0, chosen.cost,
        columns, output or _vector(network),
    )  # fmt: skip

    def make() -> Plan:
        # As long as all the rest where matrices are large: of the plan that is made only.
        widest = input_limit(network, network.input_offset, network.input_scale, rules.value_limit)
        plan = Plan(replace(signature, input_limit=widest), network, graph, x[:KEPT_SAMPLES].copy())
        return plan.with_error(check_precision(plan, x))

    once = SlotsCost(params, link, prices).once_ms(program)
    return Candidate("in slots", program.batch, chosen.cost, once, queries, make)


def compile_graph(graph: Graph, x: Array, *arguments: Any) -> Plan:
    """A plan in slots of any graph; other arguments as of `slots_candidate`."""
    make = slots_candidate(Fused(fuse(straighten(graph), x), x), *arguments).make
    assert make is not None
    return make()


def _vector(network: Normalised) -> Output:
    shape = (len(network.output_scale),)
    return Output(shape, task_of(shape, Head()))


def _choose(
    rules: Scheme,
    fused: Fused,
    batch: int | str,
    encrypted: bool,
    link: Link,
    ring: int | None,
    refreshes: int | None,
    limit: SizeLimit,
    prices: CoefficientPrices,
    queries: int,
    taps: bool,
) -> tuple[Parameters, Segments]:
    """Ring, primes and refresh checkpoints with the least time for each sample."""
    network = fused.normalised[0]
    depth = sum(op.levels for op in operations(network))
    best: tuple[float, Parameters, Segments] | None = None
    failed: CompileError | None = None
    for candidate in (ring,) if ring else RINGS:
        _, slots = rules.slots(candidate)
        count = lanes(batch, slots)
        if count > slots:
            failed = CompileError(f"batch {batch} does not fit the {slots} slots of ring {candidate}")
            continue
        layouts = fused.layouts(slots // count, count, encrypted)
        try:
            limit.check_memory([one.at(laid=True, summed=True) for one in layouts], slots)
        except CompileError as error:
            failed = failed or error
            continue
        for levels in range(1, depth + 1):
            try:
                params = rules.parameters(candidate, levels)
            except CompileError as error:
                failed = failed or error
                break
            found = place_refreshes(
                params, network, layouts, encrypted, link, refreshes, prices, queries, taps
            )
            if found is None:
                failed = no_place(params, network, refreshes)
                continue
            cost = (found.cost.total_ms + found.once / queries) / count
            if best is None or cost < best[0]:
                best = (cost, params, found)
    if best is None:
        assert failed is not None
        raise failed
    return best[1:]
