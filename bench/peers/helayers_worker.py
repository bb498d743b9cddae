"""HElayers' part, run by an interpreter that may have nothing but it and NumPy: a file on its own.

    python helayers_worker.py FOLDER SECONDS

The folder holds x.npy, logits.npy, model.onnx and, for one way of packing, channels_last.onnx. Progress goes
to standard error, figures to standard output: a line of JSON with times, then one with sizes.
"""

from __future__ import annotations

import importlib
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

he: Any = importlib.import_module("pyhelayers")  # not where types are checked

#: Bits after the point that are asked for; its optimiser takes as many more as the smallest ring has room
#: for. At its default of 36, MLP 13-64-3 needs a ring of twice the dimension, and takes three times as long.
FRACTIONAL = 25
#: Packing `conv_image_to_col` flattens by row, column and channel, unlike ONNX: answers with the weights that
#: ONNX asks for are wrong, without a warning, and by more than this in parts of their range.
WRONG = 0.05


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


class Model:
    """Encrypted weights, for one sample, with what HElayers' optimiser chose."""

    def __init__(self, path: Path) -> None:
        say("choosing parameters and a packing")
        plain = he.NeuralNetPlain()
        parameters = he.PlainModelHyperParams()
        parameters.verbose = False
        plain.init_from_files(parameters, [str(path)])
        profile = he.HeModel.compile(plain, self._requirements())
        if profile is None:
            raise RuntimeError("unable to compile the model")
        chosen = json.loads(profile.to_string())
        self.packing, needs = chosen["mode_name"], chosen["he_conf_req"]
        ring, bits = 2 * int(needs["num_slots"]), needs["fractional_part_precision"]
        self.settings = (
            f"N = {ring}, depth {needs['multiplication_depth']}, {bits} bits, {self.packing}, "
            f"HElayers {he.VERSION}"
        )
        say(f"keys and weights: {self.settings}")
        self.context = he.HeModel.create_context(profile)
        self.encrypted = plain.get_empty_he_model(self.context)
        self.encrypted.encode_encrypt(plain, profile)
        self.coder = self.encrypted.create_model_io_encoder()

    def _requirements(self) -> Any:
        found = he.HeRunRequirements()
        found.set_he_context_options([he.SealCkksContext()])
        found.optimize_for_batch_size(1)
        found.set_model_encrypted(True)
        found.set_fractional_part_precision(FRACTIONAL)
        return found

    def encrypt(self, x: Any) -> Any:
        """A query."""
        found = he.EncryptedData(self.context)
        self.coder.encode_encrypt(found, [x])
        return found

    def predict(self, query: Any) -> Any:
        """An encrypted answer: the server's part."""
        found = he.EncryptedData(self.context)
        self.encrypted.predict(found, query)
        return found

    def decrypt(self, answer: Any) -> Any:
        """Logits [classes]."""
        return np.ravel(self.coder.decrypt_decode_output(answer))

    def error(self, x: Any, logits: Any) -> float:
        """The largest of a logit, in parts of their range."""
        found = self.decrypt(self.predict(self.encrypt(x)))
        return float(np.abs(found - logits).max() / np.ptp(logits))


def repeated(call: Any, seconds: float, most: int = 15) -> tuple[Any, float, float, int]:
    """Last result, medians in ms of the processor and on the wall, and count."""
    cpu: list[float] = []
    wall: list[float] = []
    began = time.perf_counter()
    while not cpu or (len(cpu) < most and time.perf_counter() - began < seconds):
        at, processor = time.perf_counter(), time.process_time()
        result = call()
        cpu.append(1e3 * (time.process_time() - processor))
        wall.append(1e3 * (time.perf_counter() - at))
    return result, statistics.median(cpu), statistics.median(wall), len(cpu)


def times(model: Model, x: Any, seconds: float) -> dict[str, Any]:
    """Of a model that has run once, and bytes of a query and an answer."""
    query, encrypted, _, _ = repeated(lambda: model.encrypt(x), min(seconds, 0.5))
    answer, server, wall, count = repeated(lambda: model.predict(query), seconds)
    _, decrypted, _, _ = repeated(lambda: model.decrypt(answer), min(seconds, 0.5))
    return {
        "server_ms": server,
        "wall_ms": wall,
        "encrypt_ms": encrypted,
        "decrypt_ms": decrypted,
        "query_bytes": len(query.save_to_buffer()),
        "answer_bytes": len(answer.save_to_buffer()),
        "repeats": count,
        "settings": model.settings,
    }


def sizes(model: Model, folder: Path) -> dict[str, float]:
    """Bytes of what a server gets, and seconds until it has the weights from a file; the model is used up."""
    keys, weights = folder / "keys", folder / "weights"
    model.context.save_to_file(str(keys))
    model.encrypted.save_to_file(str(weights))
    del model.encrypted, model.coder  # two of them may not fit into memory
    began = time.perf_counter()
    he.load_he_model_from_file(model.context, str(weights))
    seconds = time.perf_counter() - began
    return {"key_bytes": keys.stat().st_size, "weight_bytes": weights.stat().st_size, "load_s": seconds}


def main() -> None:
    """See the module."""
    folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
    x, logits = np.load(folder / "x.npy")[None], np.load(folder / "logits.npy")
    model = Model(folder / "model.onnx")
    say("running once")
    error, found = model.error(x, logits), {}
    if error > WRONG and model.packing == "conv_image_to_col":
        say(f"the answer is wrong by {error:.0%} of its range: again, with channels last")
        found["wrong_as_onnx"] = error
        del model
        model = Model(folder / "channels_last.onnx")
        error = model.error(x, logits)
    say("running")
    print(json.dumps({**times(model, x, seconds), **found, "error": error}), flush=True)
    say("sizes")
    print(json.dumps(sizes(model, folder)), flush=True)


if __name__ == "__main__":
    main()
