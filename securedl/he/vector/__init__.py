"""The vector evaluator: SEAL's arithmetic in compiled kernels. It imports neither SEAL nor TenSEAL."""

from securedl.he.vector.cache import compiled
from securedl.he.vector.evaluator import VectorEvaluator, warm_up
from securedl.he.vector.handles import Handle

__all__ = ["Handle", "VectorEvaluator", "compiled", "warm_up"]
