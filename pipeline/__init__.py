"""The training pipeline. Imported before torch by every entry point, because torch's threads read their settings once.

After a parallel operation GNU's OpenMP, which torch is built with, lets its threads spin for about 10 ms before they
sleep. A trainer has such operations every few milliseconds, so its threads take the cores from the workers that decode.
10,000 turns (a third of a millisecond) last from one operation of a network to the next: resnet14 on two cores trained
807 images/s with them, 754 with OpenMP's 300,000, 718 with 1,000 and 530 with threads that sleep at once (means of four
turns). How long they spin changes no number.

Every entry point passes here before it imports anything else, so an interpreter without the requirements is told here.
"""

import importlib.util
import os
import sys

SPINS = "10000"
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = SPINS

# What every entry point imports, by the names that Python and pip know; setup.cfg has all.
NEEDED = {"torch": "torch", "numpy": "numpy", "pydantic": "pydantic", "yaml": "pyyaml", "rich": "rich", "PIL": "pillow"}
absent = [name for name in NEEDED if name not in sys.modules and importlib.util.find_spec(name) is None]
if absent:
    print(
        f"error: {sys.executable} has no {', '.join(NEEDED[name] for name in absent)}: in a checkout `make setup` "
        "installs what is needed and `source .venv/bin/activate` turns it on",
        file=sys.stderr,
    )
    sys.exit(2)

from pipeline.process import leaving  # noqa: F401  (what it registers for the end is to run last)
