"""Numbers instead of classes: the progress of diabetes after a year, from ten measurements.

python examples/regression.py
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_diabetes
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split
from torch import nn

import protocol
import securedl
from securedl.demo.processes import running, serve_command

parser = argparse.ArgumentParser()
parser.add_argument("--short", action="store_true", help="less training")
options = parser.parse_args()
x, y = load_diabetes(return_X_y=True)
x, y = (x * 20).astype(np.float32), y.astype(np.float32)[:, None]  # y from 25 to 346, as [samples, 1]
x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.25, random_state=0)
centre, spread = y_train.mean(), y_train.std()


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, x):
        return self.layers(x) * float(spread) + float(centre)  # in the units of y


torch.manual_seed(0)
model = Network()
optimiser = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=0.01)
for _ in range(100 if options.short else 200):
    optimiser.zero_grad()
    nn.functional.mse_loss(model(torch.tensor(x_train)), torch.tensor(y_train)).backward()
    optimiser.step()

# Targets that are no class numbers make it a regression; task="regression" says so where they could be.
poly = securedl.approximate(model, x_train, y_train, epochs=5 if options.short else 20)
print(poly.report)
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
    original, polynomial = (net(torch.tensor(x_test)).numpy() for net in (model, poly))
for name, found in (("original", original), ("polynomial", polynomial), ("encrypted", answer.logits)):
    print(f"R², {name}: {r2_score(y_test, found):.3f}")
worst = np.abs(answer.logits - polynomial).max() / np.ptp(polynomial)
print(f"largest difference from the polynomial network, of the range of its answers: {worst:.1e}")
print(f"upload and probes, once: {once:.1f} s; {len(x_test)} predictions: {answer.timings['total']:.0f} ms")
print(answer.report.summary())
