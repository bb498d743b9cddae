"""Networks whose activations are the client's, ReLU and all, in whole numbers of 8 bits: accuracy, exactness,
and what a query takes beside CKKS.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

import securedl
from bench.exact.turns import in_turns
from bench.models.measure import served
from bench.models.networks import NETWORKS
from bench.models.training import accuracy, task, trained
from securedl.plan.plan import Plan
from securedl.plan.rounds import Layerwise
from securedl.program.footprint import footprint

#: Networks, test images that are asked encrypted, and those whose labels are compared in the clear.
ASKED = {
    "cryptonets": (1000, 10_000),
    "lenet": (1000, 10_000),
    "paper": (100, 10_000),
    "resnet20": (8, 2_000),
}
CALIBRATION = 512
#: Images that go through a network in the clear at a time.
AT_ONCE = 250


@dataclass(frozen=True)
class LayerRow:
    """Of one network.

    Attributes:
        original, whole: accuracy in %, of `tested` images. asked: encrypted, of which so many are `equal` to
            the network of whole numbers in every logit, and `labels` have the original's label.
        t, chain, ckks_chain: bits of the plain modulus, and of all primes. server_ms: of a query. server,
            client, bytes: in parts of CKKS's.
    """

    name: str
    original: float
    whole: float
    tested: int
    asked: int
    equal: int
    labels: int
    passed: bool
    ring: int
    t: int
    chain: int
    ckks_chain: int
    server_ms: float
    server: float
    client: float
    bytes: float

    @property
    def loss(self) -> float:
        """In points."""
        return self.original - self.whole

    def __str__(self) -> str:
        return (
            f"{self.name:14} accuracy {self.original:.2f} % -> {self.whole:.2f} % of {self.tested} (loss "
            f"{self.loss:+.2f}); {self.equal} of {self.asked} encrypted answers equal, {self.labels} labels "
            f"the original's, verification {'passed' if self.passed else 'ALARM'}; ring {self.ring}, t "
            f"{self.t} bits, {self.chain} of modulus (CKKS {self.ckks_chain}); a query: server "
            f"{self.server_ms:.1f} ms, {self.server:.2f} x CKKS's, client {self.client:.2f} x, bytes "
            f"{self.bytes:.2f} x"
        )


def layer_row(name: str, quick: bool, queries: int) -> LayerRow:
    """All of one network."""
    data, (asked, tested) = task(NETWORKS[name]), ASKED[name]
    asked, tested = (8, 200) if quick else (asked, tested)
    model = trained(name, data, 1 if quick else None)
    x = data.x_train[:CALIBRATION]
    whole = securedl.compile(model, x, scheme="bgv", activations="client", batch=1)
    approximate = securedl.compile(model, x, activations="client", batch=1)
    original = accuracy(model, data.x_test[:tested], data.y_test[:tested])
    flat = whole.signature.clipped(whole.signature.flat(data.x_test[:tested]))
    logits = in_clear(whole, flat)
    right = (logits.argmax(1) == data.y_test[:tested]).mean()
    found = served(whole, flat[:asked].reshape(asked, *whole.input_shape), probes=0)
    with torch.no_grad():
        answers = model(torch.from_numpy(data.x_test[:asked])).numpy()
    equal = (found["logits"] == logits[:asked]).all(axis=1)
    params = whole.program.params
    times = in_turns((whole, approximate), data.x_test[:queries], queries)
    sizes = [footprint(plan.program).traffic for plan in (whole, approximate)]
    return LayerRow(
        name, 100 * original, 100 * float(right), tested, asked, int(equal.sum()),
        int((found["logits"].argmax(1) == answers.argmax(1)).sum()), bool(found["passed"]),
        params.ring, params.plain_modulus.bit_length(), params.modulus_bits,
        approximate.program.params.modulus_bits, times[0]["server"],
        times[0]["server"] / times[1]["server"], times[0]["client"] / times[1]["client"],
        sizes[0] / sizes[1],
    )  # fmt: skip


def in_clear(plan: Plan, flat: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logits of the network of whole numbers."""
    assert isinstance(plan.network, Layerwise)
    parts = [plan.network(flat[at : at + AT_ONCE]) for at in range(0, len(flat), AT_ONCE)]
    return np.concatenate(parts)
