"""The bench of peers: right answers from TenSEAL's API, and a row in place of what is not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.peers import helayers, onnx_file, tenseal_limits
from bench.peers.__main__ import ours
from bench.peers.networks import SHAPES, InexpressibleError, linear_layers, squared
from bench.peers.rows import HEAD, WAYS, Row, line
from bench.peers.tenseal_measure import Way, chosen, context, measured
from bench.peers.tenseal_packed import Packed
from bench.peers.tenseal_tutorial import Tutorial


@pytest.mark.parametrize("name", ["wine", "digits", "cryptonets"])
def test_layers_as_sums_of_terms_give_the_logits(name: str) -> None:
    network = squared(name)
    h = network.x.ravel()
    for number, layer in enumerate(linear_layers(network)):
        taken = np.append(h**2 if number else h, 0.0)[layer.taken]
        h = (layer.weight * taken).sum(axis=1) + layer.bias
    np.testing.assert_allclose(h, network.logits, atol=1e-12)


@pytest.mark.he
def test_tenseal_gives_the_logits_of_the_wine_network() -> None:
    network = squared("wine")
    row = measured(Packed("packed", linear_layers(network), (1,), 4096), network, seconds=0)
    assert row.error is not None
    assert row.error < 0.005
    assert row.encrypted == "query, weights"
    assert row.server_ms
    assert row.client_ms
    assert "packed" in line(row, [])


@pytest.mark.he
def test_all_ways_through_its_api_give_the_same_logits() -> None:
    network = squared("wine")
    layers = linear_layers(network)
    ways: list[Way] = [
        Tutorial(layers),
        Packed("copies", layers, (4,), 4096),
        Packed("plain weights", layers, (1,), 4096, plain=True),
    ]
    ring, bits = 16384, 40  # 8192 leaves 28 bits a level, and errors of some percent
    owner = context(ring, bits, max(way.depth for way in ways), rotates=True)
    for way in ways:
        found = way.run(way.weights(owner, ring // 2), way.query(owner, network.x))
        logits = way.answer([np.array(vector.decrypt()) for vector in found])
        np.testing.assert_allclose(
            logits, network.logits, atol=1e-4 * np.ptp(network.logits), err_msg=way.name
        )


@pytest.mark.he
@pytest.mark.parametrize("name", ["lenet", "paper"])
def test_two_convolutions_are_refused_by_tenseal_itself(name: str) -> None:
    network = squared(name)
    with pytest.raises(InexpressibleError, match="on what is encrypted"):
        linear_layers(network)
    row = tenseal_limits.refused(network)
    assert row.server_ms is None
    assert "chunked vectors" in row.note
    assert "doesn't match with vector size" in row.note


def test_parameters_are_the_smallest_secure_ones() -> None:
    assert chosen(depth=4, slots=4096) == (8192, 33)
    assert chosen(depth=8, slots=4096) == (16384, 40)  # 8192 has 218 bits: 19 a level
    with pytest.raises(InexpressibleError, match="9 levels and 20000 slots"):
        chosen(depth=9, slots=20000)


def test_a_peer_that_is_missing_is_a_row(tmp_path: Path) -> None:
    network = squared("wine")
    assert "not installed" in line(helayers.measured(network, None, 0), [])
    assert "failed" in helayers.measured(network, str(tmp_path / "python"), 0).note


def test_ratios_are_to_the_server_and_to_both_in_each_way() -> None:
    ways = zip(WAYS, (2.0, 5.0), strict=True)
    client, server = (
        Row("wine", "SecureDL", way, "query, weights", server_ms=ms, client_ms=3.0) for way, ms in ways
    )
    peer = Row("wine", "TenSEAL", "", "query, weights", server_ms=100.0)
    found = line(peer, [client, server])
    assert [one for one in found.split() if one.endswith("x")] == ["50.0x", "20.0x", "20.0x", "12.5x"]
    assert [one for one in line(peer, [client]).split() if one.endswith("x")] == ["50.0x", "20.0x"]
    assert "x " not in line(client, [client, server])[len("wine") :]
    assert len(HEAD) < len(found) + 10
    assert ours([client, server, peer], "wine") == [client, server]
    assert ours([client], "digits") == []


@pytest.mark.parametrize("name", SHAPES)
def test_onnx_files_hold_the_network(name: str, tmp_path: Path) -> None:
    reference = pytest.importorskip("onnx.reference")
    network = squared(name)
    onnx_file.write(network, tmp_path / "model.onnx")
    x = onnx_file.padded(network)[None].astype(np.float32)
    (found,) = reference.ReferenceEvaluator(str(tmp_path / "model.onnx")).run(None, {"x": x})
    np.testing.assert_allclose(found[0], network.logits, atol=1e-4)
