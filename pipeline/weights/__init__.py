"""Weights of others and of our own as plain state dicts. No pickle code of a file ever runs.

Besides what torch allows under weights_only, two things that published files hold beside their weights are read and
dropped: the options of a run (argparse.Namespace, in RepDistiller's <model>_last.pth) and numbers of NumPy (best_acc).

Layouts: {"model": ...} (RepDistiller, mdistiller, our checkpoints), {"state_dict": ...}, bare state dicts, safetensors,
`module.` prefixes, whole distillers of mdistiller (keys module.student.*, module.teacher.*), run folders of ours.
"""

from pipeline.weights.choice import PLAIN, Part
from pipeline.weights.files import RUN_FILE, read_origin
from pipeline.weights.load import (
    STUDENT,
    Expected,
    holds_predictor,
    load_into,
    load_weights,
    read_predictor,
    read_state,
)
from pipeline.weights.sums import sealed, weights_hash

__all__ = [
    "PLAIN",
    "RUN_FILE",
    "STUDENT",
    "Expected",
    "Part",
    "holds_predictor",
    "load_into",
    "load_weights",
    "read_origin",
    "read_predictor",
    "read_state",
    "sealed",
    "weights_hash",
]
