"""Compiled kernels: arithmetic on rows of residues, transforms, key switching. They see addresses only."""
