"""The training pipeline. Imported before torch by every entry point, because torch's threads read their settings once.

Between two parallel operations GNU's OpenMP, which torch is built with, lets its threads spin for about 10 ms before
they sleep. A trainer has such an operation every few milliseconds (normalisation, copies), so its threads would take
the cores from the workers that decode: on two cores loaders lost up to half. How long they spin changes no number.
"""

import os

SPINS = "1000"
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = SPINS

# The store of a group writes a page of frames where its other end is gone; entry.py says in a line what happened.
if os.environ.get("WORLD_SIZE", "1") != "1":
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
