"""Low-degree polynomials for activation functions: fits, proved error bounds, how to evaluate them."""

from polyapprox.activations import ACTIVATIONS, Activation, activation
from polyapprox.approximation import Approximation
from polyapprox.errors import FitError
from polyapprox.evaluation import Combine, Product, Schedule, evaluate, schedule
from polyapprox.fit import least_squares, lowest_degree
from polyapprox.minimax import remez
from polyapprox.plot import plot

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "Approximation",
    "Combine",
    "FitError",
    "Product",
    "Schedule",
    "activation",
    "evaluate",
    "least_squares",
    "lowest_degree",
    "plot",
    "remez",
    "schedule",
]
