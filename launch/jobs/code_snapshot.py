"""A copy of the code as it is now, for a job that starts later."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from pipeline.config.layer_folders import KINDS, own_folder
from pipeline.contracts import unwritten
from pipeline.run_folder.folder import commit_of
from pipeline.utils.atomic import write_json
from pipeline.utils.places import PACKAGES, ROOT, installed_configs

PARTS = (*PACKAGES, "configs", "setup.cfg")


def source_files(root: Path) -> list[str]:
    """Files of the code, relative to `root`: git's, tracked or new but not ignored; without git all but caches."""
    listed = subprocess.run(
        ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PARTS],
        capture_output=True, text=True,
    )  # fmt: skip
    own = (root / ".git").exists()  # a snapshot in the runs/ of a repository is ignored by it
    if own and listed.returncode == 0:
        return [name for name in sorted(set(listed.stdout.split("\0"))) if name and (root / name).is_file()]
    parts = PACKAGES if installed_configs(root).is_dir() else PARTS  # beside installed packages lie those of others
    every = (p for part in parts for p in [root / part, *(root / part).rglob("*")] if p.is_file())
    return sorted(str(p.relative_to(root)) for p in every if "__pycache__" not in p.parts)


def own_layers(root: Path) -> dict[str, Path]:
    """{name: file} of the user's own layer files (STILLHOUSE_CONFIGS); a copy of the code has them among ours."""
    own, inside = own_folder(), installed_configs(root)
    configs = (inside if inside.is_dir() else root / "configs").relative_to(root)
    files = [file for kind in KINDS for file in (own / kind).glob("*.yaml")] if own else []
    return {f"{configs}/{file.parent.name}/{file.name}": file for file in files}


def take(folder: Path, root: Path = ROOT) -> Path:
    """Copies the code of `root` into `folder`; returns `folder`. SNAPSHOT.json there says the commit and a checksum.

    Raises InputError, NotWritten when the folder cannot be written.
    """
    digest = hashlib.sha256()
    try:
        files = {name: root / name for name in source_files(root)} | own_layers(root)
        for name, file in sorted(files.items()):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
            digest.update(os.fsencode(name) + b"\0" + target.read_bytes())
    except OSError as error:
        raise unwritten(f"cannot copy the code to {folder}", error) from None
    write_json(folder / "SNAPSHOT.json", {"git": commit_of(root)["git"], "sha256": digest.hexdigest()})
    return folder
