"""Table 1 of SecureDL: what polynomial activations and encryption cost in accuracy."""
