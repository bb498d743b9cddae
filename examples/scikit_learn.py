"""Pipelines of scikit-learn, encrypted: no torch to write.

python examples/scikit_learn.py
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import protocol
import securedl
from securedl.demo.processes import running, serve_command

parser = argparse.ArgumentParser()
parser.add_argument("--short", action="store_true", help="less training")
options = parser.parse_args()
x, y = load_breast_cancer(return_X_y=True)
x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.3, random_state=0, stratify=y)
epochs = 3 if options.short else 20

for estimator in (LogisticRegression(), MLPClassifier((16,), max_iter=1000, random_state=0)):
    pipeline = make_pipeline(StandardScaler(), estimator).fit(x_train, y_train)
    # The scaler becomes part of the first layer, so queries are rows as they are in the table. A logistic
    # regression has no activation but the sigmoid at its end, which the client applies: nothing to tune.
    model = securedl.from_sklearn(pipeline)
    tuned = epochs if isinstance(estimator, MLPClassifier) else 0
    poly = securedl.approximate(model, x_train, y_train, epochs=tuned)
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
        polynomial = (poly(torch.tensor(x_test)).numpy().ravel() > 0.5).astype(int)
    print(f"{type(estimator).__name__}")
    for name, labels in (
        ("scikit-learn", pipeline.predict(x_test)), ("polynomial", polynomial), ("encrypted", answer.labels)
    ):  # fmt: skip
        print(f"accuracy, {name}: {np.mean(labels == y_test):.1%}")
    print(f"labels equal to the polynomial network's: {np.mean(answer.labels == polynomial):.1%}")
    print(
        f"upload and probes, once: {once:.1f} s; {len(x_test)} predictions: {answer.timings['total']:.0f} ms"
    )
    print(answer.report.summary())
