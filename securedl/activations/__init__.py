"""Polynomials in place of activations: find the sites, observe their values, fit, tune, report."""
