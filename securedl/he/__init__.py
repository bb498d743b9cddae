"""Homomorphic encryption: parameters, byte layout, evaluators; the secret key lives in `owner` alone."""
