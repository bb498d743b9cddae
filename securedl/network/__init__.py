"""The network as it was given: a graph of affine maps and polynomials, and how PyTorch models become one."""
