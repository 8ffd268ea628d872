"""Several seeds at once: each is trained by a process of its own, forked once the data set has been read.

Forked, because the imports are then paid for once and host memory that nobody writes to is shared; before anything
touches CUDA, which no fork survives. The processes share a GPU by its time slices, or by MPS where its daemon runs.
"""

from pipeline.engine.seeds.parent import Outcome, prepare_to_fork, train_together
from pipeline.engine.seeds.share import Share, share_out

__all__ = ["Outcome", "Share", "prepare_to_fork", "share_out", "train_together"]
