"""A network from an ONNX file, from whatever framework wrote it (pip install '.[onnx]').

python examples/onnx_file.py network.onnx    # one that takes 64 numbers and gives 10 logits
python examples/onnx_file.py                 # writes such a file first
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

import protocol
import securedl
from securedl.demo.processes import running, serve_command

parser = argparse.ArgumentParser()
parser.add_argument("file", nargs="?", type=Path)
parser.add_argument("--short", action="store_true", help="less training")
options = parser.parse_args()
x, y = load_digits(return_X_y=True)
x = (x / 16).astype(np.float32)
x_train, y_train, x_test, y_test = x[:1500], y[:1500], x[1500:], y[1500:]

if options.file is None:  # torch.onnx.export, tf2onnx and skl2onnx write such files of trained networks
    trained = MLPClassifier((32,), max_iter=40 if options.short else 200, random_state=0, tol=0.02)
    (a, b), (c, d) = trained.fit(x_train, y_train).coefs_, trained.intercepts_
    nodes = [
        helper.make_node("Gemm", ["x", "a", "c"], ["u"]),
        helper.make_node("Relu", ["u"], ["v"]),
        helper.make_node("Gemm", ["v", "b", "d"], ["logits"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["samples", size])
        for name, size in (("x", 64), ("logits", 10))
    ]
    weights = [
        numpy_helper.from_array(w.astype(np.float32), name)
        for w, name in zip((a, b, c, d), "abcd", strict=True)
    ]
    options.file = Path(tempfile.mkdtemp(), "digits.onnx")
    onnx.save(
        helper.make_model(helper.make_graph(nodes, "digits", ends[:1], ends[1:], weights)), options.file
    )

model = securedl.from_onnx(options.file)
poly = securedl.approximate(model, x_train, y_train, epochs=5 if options.short else 20)
owner = securedl.Owner(securedl.compile(poly, x_train))
with (
    tempfile.TemporaryDirectory(prefix="securedl-") as folder,
    running(serve_command(Path(folder, "store"), f"unix:{folder}/socket"), Path(folder, "log")) as server,
    protocol.Client(server.address, owner) as client,
):
    began = time.perf_counter()
    client.upload()
    answer = client.predict(x_test)
    once = time.perf_counter() - began - answer.timings["total"] / 1e3

with torch.no_grad():
    original, polynomial = (net(torch.tensor(x_test)).argmax(1).numpy() for net in (model, poly))
for name, labels in (("original", original), ("polynomial", polynomial), ("encrypted", answer.labels)):
    print(f"accuracy, {name}: {np.mean(labels == y_test):.1%}")
print(f"labels equal to the polynomial network's: {np.mean(answer.labels == polynomial):.1%}")
print(f"upload and probes, once: {once:.1f} s; {len(x_test)} predictions: {answer.timings['total']:.0f} ms")
print(answer.report.summary())
