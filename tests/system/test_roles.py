"""Three processes: an owner uploads and grants, a server serves, a client without weights asks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import securedl

pytestmark = pytest.mark.he

OWNER = """
import numpy as np, protocol, securedl, sys
plan, folder, address = securedl.load_plan(sys.argv[1]), sys.argv[2], sys.argv[3]
owner = securedl.Owner(plan)
with protocol.Client(address, owner) as client:
    client.upload()
owner.grant("ward 3", days=1).save(folder + "/kit", passphrase="p")
owner.grant("gone", days=1e-9).save(folder + "/gone", passphrase="p")
print(owner.model_id.hex())
"""
#: What it may not load, and then what it may do.
CLIENT = """
import json, sys
class Never:
    def find_spec(self, name, path=None, target=None):
        assert name.partition(".")[0] not in ("torch", "sklearn", "onnx"), name
        assert not name.startswith("securedl.compiler"), name
sys.meta_path.insert(0, Never())
import numpy as np, protocol, securedl
kit = securedl.Kit.load(sys.argv[1], passphrase="p")
with protocol.Client(sys.argv[2], kit) as client:
    try:
        answer = client.predict(np.load(sys.argv[3]))
    except securedl.errors.InputError as error:
        print(json.dumps({"refused": str(error)}))
        sys.exit()
    try:
        client.upload()
    except securedl.errors.InputError as error:
        refused = str(error)
report = answer.report.to_dict()
found = {"model": kit.model_id.hex(), "logits": answer.logits.tolist(), "report": report, "upload": refused}
print(json.dumps(found))
"""


def run(code: str, *arguments: object) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"checked_by": "client", "ring": 8192}, marks=pytest.mark.slow, id="ckks"),
        pytest.param({"scheme": "bgv"}, id="bgv"),
    ],
)
def test_owner_server_client(network: Any, serving: Any, folder: Path, tmp_path: Path, options: Any) -> None:
    net, name = network(), options.get("scheme", "ckks")
    plan = securedl.compile(net.model, net.x, batch=32, **options)
    plan.save(tmp_path / "plan")
    x = net.x[:40]
    np.save(tmp_path / "x.npy", x)
    address = f"unix:{folder / name}"
    with serving(folder, name=name):
        model = run(OWNER, tmp_path / "plan", tmp_path, address)
        found = json.loads(run(CLIENT, tmp_path / "kit", address, tmp_path / "x.npy"))
        refused = json.loads(run(CLIENT, tmp_path / "gone", address, tmp_path / "x.npy"))["refused"]
    assert found["model"] == model
    report, wanted = found["report"], plan.simulate(x, noise_seed=None)
    np.testing.assert_allclose(found["logits"], wanted, atol=1e-3 * np.ptp(wanted))
    assert (report["passed"], report["how"], report["checked"], report["open"]) == (True, "projected", 40, 0)
    assert report["points"] == len(plan.signature.checkpoints) - 1
    assert "a kit holds no weights and cannot upload" in found["upload"]
    assert "this kit has expired" in refused


def test_a_dishonest_server_is_noticed(network: Any, local: Any, folder: Path, tmp_path: Path) -> None:
    """It runs the weights of another network; a client without weights sees that at the first refresh."""
    from securedl.demo.dishonest import DishonestBackend
    from securedl.he.backends import backend

    net = network()
    plan = securedl.compile(net.model, net.x, batch=32, scheme="bgv")
    owner = securedl.Owner(plan)
    kit = owner.grant()
    dishonest = DishonestBackend(backend("vector"), "drop", 0)
    with local(folder, owner, name="d", evaluator=dishonest) as client:
        client.upload()
        client._owner = kit
        answer = client.predict(net.x[:5])
    assert not answer.report.passed
    assert answer.report.how == "projected"
    assert answer.report.alarms
