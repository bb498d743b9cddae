"""A table of your own: CSV file -> small network -> encrypted predictions.

python examples/own_csv.py table.csv    # a line of names, then numbers; the last column is the class
python examples/own_csv.py              # makes a table first, of scikit-learn's wine
"""

import argparse
import csv
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split
from torch import nn

import protocol
import securedl
from securedl.demo.processes import running, serve_command

parser = argparse.ArgumentParser()
parser.add_argument("table", nargs="?", type=Path)
parser.add_argument("--short", action="store_true", help="less training")
options = parser.parse_args()
if options.table is None:
    wine, options.table = load_wine(), Path(tempfile.mkdtemp(), "wine.csv")
    with options.table.open("w", newline="") as file:
        csv.writer(file).writerow([*wine.feature_names, "class"])
        csv.writer(file).writerows(np.column_stack([wine.data, wine.target_names[wine.target]]))

with options.table.open(newline="") as file:
    names, *rows = csv.reader(file)
x = np.array([row[:-1] for row in rows], dtype=np.float32)
classes, y = np.unique([row[-1] for row in rows], return_inverse=True)
print(f"{options.table}: {len(x)} rows, {len(names) - 1} features, classes {', '.join(classes)}")
x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.3, random_state=0, stratify=y)
centre, spread = x_train.mean(0), x_train.std(0) + 1e-6  # of the training part, for queries too
x_train, x_test = (x_train - centre) / spread, (x_test - centre) / spread

# An ordinary network and an ordinary training.
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(x.shape[1], 16), nn.ReLU(), nn.Linear(16, len(classes)))
optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
for _ in range(100 if options.short else 300):
    optimiser.zero_grad()
    nn.functional.cross_entropy(model(torch.tensor(x_train)), torch.tensor(y_train)).backward()
    optimiser.step()

# Polynomials for the activations, a plan, a key; then a server that sees ciphertexts only.
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
print(f"the first row is {classes[answer.labels[0]]}")
print(f"upload and probes, once: {once:.1f} s; {len(x_test)} predictions: {answer.timings['total']:.0f} ms")
print(answer.report.summary())
