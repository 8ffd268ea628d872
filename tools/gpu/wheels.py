"""Requirements that a machine with torch lacks, pinned, one a line: setup.cfg's, in the versions of constraints.txt.

python tools/gpu/wheels.py [PACKAGE...]   (the packages that the machine has; default HAVE)
"""

import configparser
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HAVE = ("torch", "jinja2", "numpy", "pyyaml", "safetensors", "tensorboard", "rich", "pillow")


def name_of(requirement: str) -> str:
    """'pydantic' of 'Pydantic>=2.8'."""
    return re.split(r"[^A-Za-z0-9._-]", requirement.strip(), maxsplit=1)[0].lower()


def lacking(have: tuple[str, ...] = HAVE) -> list[str]:
    """install_requires without what the machine has, each as constraints.txt pins it."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    wanted = [line for line in config["options"]["install_requires"].splitlines() if line.strip()]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {name_of(line): line.strip() for line in lines if line.strip() and not line.startswith("#")}
    return [pins.get(name_of(line), line.strip()) for line in wanted if name_of(line) not in have]


if __name__ == "__main__":
    print("\n".join(lacking(tuple(sys.argv[1:]) or HAVE)))
