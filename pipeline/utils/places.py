"""Which version this is; where it lies with its configs/: in a checkout, in a job's copy of one, installed by pip."""

from pathlib import Path

VERSION = "0.1.0"
ROOT = Path(__file__).resolve().parents[2]  # the checkout, or the folder that packages are installed in
PACKAGES = ("pipeline", "launch", "data_prep")


def installed_configs(root: Path) -> Path:
    """Where setup.py puts configs/ of what is installed in `root`."""
    return root / "pipeline" / "configs"


INSTALLED = installed_configs(ROOT).is_dir()  # or a job's copy of what is installed
CONFIGS = installed_configs(ROOT) if INSTALLED else ROOT / "configs"
