"""Primitives of both evaluators at N = 8192 with four levels: `make bench` prints the medians."""

from __future__ import annotations

import numpy as np
import pytest
import tenseal.sealapi as seal

from securedl.he.ckks import ckks_parameters
from securedl.he.record import Shape
from securedl.he.seal import SealContext, SealEvaluator, galois_element, save_stream
from securedl.he.vector import VectorEvaluator

PARAMS = ckks_parameters(8192, 4)
STEP = 64


@pytest.fixture(scope="module", params=["seal", "vector"])
def setup(request):
    """An evaluator with keys, and two ciphertexts."""
    context = SealContext(PARAMS)
    keys = seal.KeyGenerator(context.context)
    element = galois_element(PARAMS.ring, STEP)
    relin = context.key_records(save_stream(keys.create_relin_keys()), 0)
    rotation = context.key_records(save_stream(keys.create_galois_keys([element])), (element - 1) // 2)
    evaluator = SealEvaluator(PARAMS) if request.param == "seal" else VectorEvaluator(PARAMS)
    evaluator.set_keys(relin, {STEP: rotation})
    encryptor = seal.Encryptor(context.context, keys.secret_key())
    encoder = seal.CKKSEncoder(context.context)
    random = np.random.default_rng(0)

    def encrypted():
        plain = seal.Plaintext()
        shape = Shape(PARAMS.levels, 2, 2.0**33)
        values = random.uniform(-1, 1, PARAMS.slots).tolist()
        encoder.encode(values, list(context.parms_ids[shape.level]), shape.scale, plain)
        return evaluator.load(context.ciphertext_record(save_stream(encryptor.encrypt_symmetric(plain))))

    return evaluator, encrypted(), encrypted()


def test_multiply(benchmark, setup):
    evaluator, a, b = setup
    benchmark(evaluator.multiply, a, b)


def test_square(benchmark, setup):
    evaluator, a, _ = setup
    benchmark(evaluator.square, a)


def test_dot_16_terms(benchmark, setup):
    evaluator, a, b = setup
    benchmark(evaluator.dot, [a] * 16, [b] * 16)


def test_relinearise(benchmark, setup):
    evaluator, a, b = setup
    benchmark(evaluator.relinearise, evaluator.multiply(a, b))


def test_rescale(benchmark, setup):
    evaluator, a, _ = setup
    benchmark(evaluator.rescale, a)


def test_rotate(benchmark, setup):
    evaluator, a, _ = setup
    benchmark(evaluator.rotate, a, [STEP])
