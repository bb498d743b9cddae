"""The weights of a model on disk, as a back end asks for them."""

from __future__ import annotations

from protocol.stored import BlobReader, StoredModel
from securedl.he.weights import Records


class StoredWeights(Records):
    """Weights of a stored model; each one's digest is checked when it is first read."""

    def __init__(self, stored: StoredModel, blobs: BlobReader) -> None:
        self.model_id, self.params = stored.model_id, stored.program.params
        self.shapes = stored.table.shapes
        self._first, self._blobs = len(stored.table.keys), blobs

    def packed(self, index: int) -> bytes:
        """Bytes of one weight."""
        return self._blobs[self._first + index]
