"""Plans of all forms, and a server in this process with a hand that changes what it sends."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

import securedl
from polyapprox import least_squares
from securedl.client.coefficients import encoded
from securedl.he.backends import backend
from securedl.he.record import pack, unpack, unpack_key
from securedl.network.polynomial import PolynomialActivation
from securedl.plan.plan import Plan
from securedl.program.drive import drive
from securedl.program.execute import execute

FEATURES = 6
X = np.random.default_rng(0).normal(size=(200, FEATURES))


def network(name: str, degree: int, width: int = 8) -> nn.Module:
    fit = least_squares(name, degree, (-3.0, 3.0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Linear(FEATURES, width), PolynomialActivation.of([fit], name), nn.Linear(width, width)]
        return nn.Sequential(*layers, PolynomialActivation.of([fit], name), nn.Linear(width, 3)).double()


def small_mlp() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, 3)).double()


def small_cnn(activation: nn.Module) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), activation, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 5)
        ).double()


def square() -> nn.Module:
    return PolynomialActivation.of([least_squares("relu", 2, (-3.0, 3.0))], "relu")


def wide() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(64, 64), square(), nn.Linear(64, 64), square(), nn.Linear(64, 10)
        ).double()


WIDE = np.random.default_rng(2).uniform(-1, 1, size=(200, 64))
IMAGES = np.random.default_rng(1).uniform(0, 1, size=(100, 1, 8, 8))
FORMS = {
    "squares, a refresh a level": lambda: securedl.compile(network("relu", 2), X, batch=32, ring=4096),
    "squares, no refresh": lambda: securedl.compile(network("relu", 2), X, batch=32, ring=16384, refreshes=0),
    "cubics": lambda: securedl.compile(network("tanh", 3), X, batch=64, ring=8192),
    "powers": lambda: securedl.compile(network("relu", 4), X, batch=16, ring=8192),
    "plain weights": lambda: securedl.compile(network("relu", 2), X, batch=32, ring=8192, weights="plain"),
    "one sample": lambda: securedl.compile(network("relu", 2), X, batch=1),
    "a client's activations": lambda: securedl.compile(
        small_mlp(),
        X, batch=1, activations="client",
    ),
    "images, a client's activations": lambda: securedl.compile(
        small_cnn(nn.ReLU()), IMAGES, batch=1, activations="client"
    ),
    "many rotations": lambda: securedl.compile(wide(), WIDE, batch=64, ring=8192),
    "squares, taps": lambda: securedl.compile(
        network("relu", 2), X, batch=32, ring=16384, refreshes=0, checked_by="client"
    ),
    "powers, taps": lambda: securedl.compile(network("relu", 4), X, batch=16, ring=8192, checked_by="client"),
    "images in slots": lambda: securedl.compile(small_cnn(square()), IMAGES, batch=1),
}  # fmt: skip
#: The same, each compiled once for all tests.
PLANS = {form: functools.cache(make) for form, make in FORMS.items()}


def served(owner: securedl.Owner, x: np.ndarray, change=None, **options):
    """See `Server.answer`."""
    return Server(owner).answer(x, change, **options)


class Server:
    """Keys and weights, and a hand that adds to ciphertexts: it needs no key for that."""

    def __init__(self, owner: securedl.Owner, evaluator: str = "vector") -> None:
        self.owner = owner
        self.program, params = owner.program, owner.program.params
        self._plain = owner.keys.encrypt  # which of a plaintext only encodes
        self.evaluator: Any = backend(evaluator).open(params)
        keys = {step: unpack_key(params, owner.key(step)) for step in self.program.rotations}
        relinearisation = unpack_key(params, owner.key(None)) if self.program.relinearises else []
        self.evaluator.set_keys(relinearisation, keys)
        pairs = zip(owner.weights(), self.program.weight_shapes, strict=True)
        self.weights = [self.evaluator.load_packed(data, shape) for data, shape in pairs]

    def answer(self, x: np.ndarray, change=None, **options):
        """By the real evaluator in this process; change(point, tile) gives slots that are added to what it
        sends, or None.
        """
        inference = self.owner.ask(x, after_alarm="continue", **options)
        for batch in inference.batches:
            self.serve(batch, change)
        return inference.answer({}, {})

    def serve(self, batch, change=None) -> None:
        program, params, e = self.program, self.program.params, self.evaluator

        def load(tiles, port):
            return [e.load(unpack(params, tile, port.fresh)) for tile in tiles]

        def dump(point, tiles, port):
            if change is not None:
                tiles = [self._changed(tile, port, change(point, k)) for k, tile in enumerate(tiles)]
            return [pack(params, e.sent(tile, port.sent)) for tile in tiles]

        def shown(what):
            down, up = program.shown[what.index]
            tiles = dump(what.index + 1, what.tiles, down)
            if up is None:
                return batch.tap(what.index, tiles)
            return load(batch.refresh(what.index, tiles), up)

        answer = drive(execute(program, e, self.weights, load(batch.query(), program.query)), shown)
        batch.finish(dump(len(program.shown) + 1, answer, program.answer))

    def _changed(self, tile, port, added):
        if added is None:
            return tile
        params = self.program.params
        if params.exact:
            shape = replace(port.sent, size=1, correction=1)
            plain = unpack(params, self._plain(added, shape), shape)
        else:
            plain = encoded(params, added, port.sent)
        return self.evaluator.add(tile, self.evaluator.load(replace(plain, seed=None)))


def data(plan: Plan, count: int) -> np.ndarray:
    return plan.samples[-count:].reshape(count, *plan.input_shape)
