"""The fifteen data sets.

The `digest` of a variant was computed from copies that agree with others independent of them; that of wdbc
and iris from scikit-learn 1.9. No address could be opened where this was written. Addresses of Wine,
Fertility, Spambase, Optdigits, MNIST, CIFAR-10, GTSRB, ORL, Crabs and Pima, the md5 sums, and GTSRB's rows
of each class were found in several public programs that use them. For Breast Tissue and Climate Crashes
only the older addresses were, which stand second. Where ORL's and UCI's archives keep their folders is
assumed as little as possible: members are found by file name. A download that reads as anything but the
digest is refused, so a wrong address costs a clear error and never wrong data. The complete CIFAR-10 and
GTSRB have no digest: there the md5 sums of the archives and the rows of each class stand in. The DOI of
the ovarian study is from memory.
"""

from __future__ import annotations

from collections.abc import Mapping

from securedl.datasets.catalogue_images import IMAGES
from securedl.datasets.catalogue_tables import TABLES
from securedl.datasets.source import Source

#: By name, in the order in which they are listed.
CATALOGUE: Mapping[str, Source] = {source.name: source for source in (*TABLES, *IMAGES)}
