"""Golden cases of whole training iterations: one entry of LOOPS for each method, added by the file of its group."""

from golden_adapters import Adapter, Outputs, adapter
from golden_cases import Case
from torch import Tensor

LOOPS: dict[str, Adapter] = {}


@adapter("loops")
def repository_loop(case: Case, inputs: dict[str, Tensor]) -> Outputs:
    """Cases are named <repository>_<method>_<pair>."""
    return LOOPS[case.name.split("_")[1]](case, inputs)
