"""A convolutional network on MNIST, written with functions as many are.

python examples/mnist_cnn.py            # 28 x 28; fetches MNIST if it is not at hand
python examples/mnist_cnn.py --short    # scikit-learn's digits, 8 x 8
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import protocol
import securedl
from securedl import datasets
from securedl.demo.processes import running, serve_command

parser = argparse.ArgumentParser()
parser.add_argument("--short", action="store_true", help="small images, less training")
options = parser.parse_args()
if options.short:
    images, y = load_digits(return_X_y=True)
    x = images.reshape(-1, 1, 8, 8).astype(np.float32) / 16
    x_train, y_train, x_test, y_test = x[:1500], y[:1500], x[1500:], y[1500:]
else:
    x_train, y_train, x_test, y_test = datasets.load("mnist").split()
    x_train, x_test = (part[:, None].astype(np.float32) / 255 for part in (x_train, x_test[:256]))
    y_test = y_test[:256]


class Network(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, stride=1 if size < 16 else 3)
        self.hidden = nn.Linear(36 if size < 16 else 64, 32)
        self.last = nn.Linear(32, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv(x)), 2)  # becomes average pooling
        x = F.silu(self.hidden(x.view(x.size(0), -1)))
        return F.log_softmax(self.last(x), dim=1)  # left to the client


torch.manual_seed(0)
model = Network(x_train.shape[-1])
optimiser = torch.optim.Adam(model.parameters(), lr=1e-2 if options.short else 3e-3)
for _ in range(8 if options.short else 4):
    for chosen in torch.split(torch.randperm(len(x_train)), 64):
        optimiser.zero_grad()
        F.nll_loss(model(torch.tensor(x_train[chosen])), torch.tensor(y_train[chosen])).backward()
        optimiser.step()

poly = securedl.approximate(model, x_train, y_train, epochs=3)
plan = securedl.compile(poly, x_train)
print(plan.summary())
owner = securedl.Owner(plan)
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
