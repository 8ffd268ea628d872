"""One network of each family on two ranks of DDP: the gradient of one process, and none missing."""

from pathlib import Path

import ranks
import torch
from models import ddp_job
from models.families import smallest


def test_gradients_on_two_ranks(tmp_path: Path) -> None:
    log = tmp_path / "log"
    codes = ranks.finish(ranks.start(ddp_job.families, (str(tmp_path / "seen"),), 2, log), seconds=240)
    assert codes == [0, 0], Path(f"{log}.0").read_text()
    for rank in (0, 1):
        seen = torch.load(tmp_path / f"seen.{rank}", weights_only=True)
        assert set(seen) == set(smallest().values())
        assert max(seen.values()) <= 1e-10, seen
