"""Where layer files lie: in configs/, and in a folder of the user's own that is built like it."""

import os
from pathlib import Path

from pipeline.config.keys import ConfigError

OWN = "STILLHOUSE_CONFIGS"  # environment variable: that folder; no folder is searched unasked
KINDS = ("dataset", "method", "recipe", "cluster", "sweep")


def own_folder() -> Path | None:
    """The user's own folder, None where there is none. Raises ConfigError for one that is not there."""
    given = os.environ.get(OWN)
    if not given:
        return None
    folder = Path(given).expanduser().absolute()
    if not folder.is_dir():
        raise ConfigError([f"{OWN}={given}: no such folder"])
    return folder


def layer_files(configs: Path, kind: str) -> dict[str, Path]:
    """{name: file} of all layers of a kind, sorted. Raises ConfigError where a file of the user's would hide ours."""
    found = {path.stem: path for path in (configs / kind).glob("*.yaml")}
    own = own_folder()
    for path in sorted((own / kind).glob("*.yaml")) if own else []:
        if path.stem in found:
            raise ConfigError([f"{path}: there is a {kind} {path.stem} already; give the file another name"])
        found[path.stem] = path
    return dict(sorted(found.items()))


def place_of(configs: Path, path: Path) -> str:
    """How a layer file is called in messages: configs/recipe/x.yaml, a file of the user's by its path."""
    return f"{configs.name}/{path.relative_to(configs)}" if configs in path.parents else str(path)
