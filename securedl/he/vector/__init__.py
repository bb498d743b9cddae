"""The vector evaluator: SEAL's arithmetic in compiled kernels. It imports neither SEAL nor TenSEAL."""

from securedl.he.vector.evaluator import VectorEvaluator, warm_up
from securedl.he.vector.handles import Handle
from securedl.he.vector.kernels.cache import compiled

__all__ = ["Handle", "VectorEvaluator", "compiled", "warm_up"]
