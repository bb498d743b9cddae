"""An owner, its client, and a server process that works against them."""

from __future__ import annotations

import contextlib
import secrets
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bench
import protocol
import securedl
from bench.detection.hostile import Order
from securedl.client.inference import Answer
from securedl.client.probes import Verification
from securedl.demo.processes import running
from securedl.errors import InputError, ProtocolError
from securedl.network.graph import Array
from securedl.plan.plan import Plan


@dataclass
class Target:
    """Whom a hostile server works against.

    Attributes:
        orders: the file that tells the server what to do. samples: [samples, features] to ask about.
        older: a plan with the same program, for other weights.
    """

    owner: securedl.Owner
    client: protocol.Client
    address: str
    orders: Path
    samples: Array
    older: Plan | None = None
    _stored: dict[str, str] = field(default_factory=dict)

    @property
    def plan(self) -> Plan:
        """The owner's."""
        return self.owner.plan

    def ask(self, order: Order, flat: Array, verify: str, probes: int) -> Answer | None:
        """One call under these orders; None where the server broke the protocol."""
        order.write(self.orders)
        try:
            return self.client.predict(self.shaped(flat), probes, verify=verify, after_alarm="continue")
        except ProtocolError:
            return None

    def shaped(self, flat: Array) -> Array:
        """Samples as `predict` takes them."""
        return flat.reshape(len(flat), *self.plan.input_shape)

    def labels(self, flat: Array) -> Any:
        """Those that are right."""
        return self.plan.signature.output.labels(self.plan.reference(flat))

    def deviations(self, point: int) -> Array:
        """Of honest errors at a checkpoint, [batch, features]."""
        return self.owner.verification.tolerances[point if point < 0 else point - 1].deviations

    def growth(self, point: int, flat: Array) -> float:
        """How much more may be allowed for samples, or for probes, than for the calibration data."""
        plan, points, at = (
            self.plan,
            self.plan.signature.checkpoints,
            point % len(self.plan.signature.checkpoints),
        )
        verification = self.owner.verification
        found = [1.0, float(verification.probes.grown[at - 1].max(initial=1.0))]
        for batch in plan.batches(flat):
            sent = plan.network.exchanges(batch, points)[at - 1].sent
            *stages, _ = plan.network.inside(at, sent, points)
            found.append(float(verification.tolerances[at - 1].grown(stages).max()))
        return max(found)

    def stored(self, which: str) -> str:
        """The folder of another model of the same program and under the same keys, uploaded to the server and
        loaded there: the "older" one, or this one "again". The library makes none, for each owner has keys of
        its own.
        """
        if which not in self._stored:
            plan = self.older if which == "older" else self.plan
            assert plan is not None
            self._stored[which] = self._upload(plan)
        return self._stored[which]

    def _upload(self, plan: Plan) -> str:
        if plan.program.id != self.plan.program.id:
            raise InputError("the older model has another program: compile it as the newer one")
        other = securedl.Owner.__new__(securedl.Owner)
        verification = Verification(plan, secret=self.owner.verification.secret)
        other._set(plan, self.owner.keys, secrets.token_bytes(16), verification, 1)
        Order().write(self.orders)
        with protocol.Client(self.address, other) as client:
            client.upload()
            client.predict(self.shaped(plan.samples[:1]), probes=0)
        return other.model_id.hex()


@contextlib.contextmanager
def against(plan: Plan, samples: Array, older: Plan | None = None) -> Iterator[Target]:
    """A hostile server process, honest until it gets orders, with the plan's model uploaded to it."""
    with tempfile.TemporaryDirectory(prefix="sdl") as name:
        folder, owner = Path(name), securedl.Owner(plan)
        orders, address = folder / "orders", f"unix:{folder}/s"
        command = [sys.executable, "-m", "bench.detection.hostile", "--store", f"{folder}/store"]
        command += ["--listen", address, "--orders", f"{orders}"]
        root = Path(bench.__file__).parents[1]
        with running(command, folder / "log", root), protocol.Client(address, owner) as client:
            client.upload()
            yield Target(owner, client, address, orders, plan.checked(samples), older)
