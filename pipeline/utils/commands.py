"""The console script `stillhouse`: one word for each entry point.

An entry point is run as `python -m` runs it: it listens to signals before it imports torch.
"""

import os
import re
import runpy
import sys

from pipeline.utils.places import INSTALLED, ROOT, VERSION
from pipeline.utils.suggest import hint, short

USER_ERROR = 2
FAILED = 1
COMMANDS = {
    "train": ("pipeline.train", "train a network, alone or distilled from a teacher"),
    "evaluate": ("pipeline.evaluate", "count what a network gets right on the test set"),
    "export": ("pipeline.export", "write a network as it is served, or count its parameters and FLOPs"),
    "visualize": ("pipeline.visualize", "draw pictures of runs"),
    "benchmark": ("pipeline.benchmark", "measure the parts of a training, and name the bottleneck"),
    "cache": ("data_prep.cache_teacher", "write the teacher's outputs ahead of time"),
    "verify-cache": ("data_prep.verify_cache", "recompute a sample of such a cache and compare"),
    "quickstart": ("launch.quickstart", "train, distil and compare on the embedded data set"),
    "reproduce": ("launch.reproduce", "run one published cell and print it beside the published figure"),
    "submit": ("launch.submit", "send a run to a cluster, or start it here"),
    "sweep": ("launch.sweep", "run a table of runs"),
    "status": ("launch.status", "show what every run does"),
    "table": ("launch.table", "print runs as a table: mean +- std over seeds, beside the published figure"),
    "scaling": ("launch.scaling", "estimate what N nodes would give"),
    "fetch-teachers": ("data_prep.fetch_teachers", "fetch published teachers"),
    "imagenet": ("data_prep.imagenet", "make a checked tree of ImageNet out of its archives"),
    "tiny-imagenet": ("data_prep.tiny_imagenet", "make a checked tree of Tiny-ImageNet out of its archive"),
    "synthetic": ("data_prep.synthetic", "write the embedded data set, or generated JPEGs, to a folder"),
    "write-beton": ("data_prep.write_beton", "write a data set as FFCV's .beton file"),
}
USAGE = "usage: stillhouse COMMAND [key=value ...]; stillhouse COMMAND --help lists its keys; stillhouse --version"
PATH = re.compile(r"(?:python|torchrun(?P<flags>(?: -[\w-]+ \d+)*)) (?P<package>\w+)/(?P<file>\w+)\.py")


def help_text() -> str:
    """What --help prints: a line for each command."""
    return "\n".join([USAGE, "", *(f"  {name:15} {does}" for name, (_, does) in COMMANDS.items())])


def main(argv: list[str] | None = None) -> int:
    """Runs the entry point that the first word names, on the others. Returns the exit code where none is run."""
    words = sys.argv[1:] if argv is None else argv
    name = words[0] if words else "--help"
    if name in ("--help", "-h", "--version"):
        return _show(f"stillhouse {VERSION}" if name == "--version" else help_text())
    if name not in COMMANDS:
        known = list(COMMANDS)
        print(f"error: unknown command {short(name)}{hint(name, known)} (known: {', '.join(known)})", file=sys.stderr)
        return USER_ERROR
    sys.argv[1:] = words[1:]
    if sys.flags.safe_path:
        sys.path.insert(0, str(ROOT))  # for what an entry point writes over: the folder of the script
    runpy.run_module(COMMANDS[name][0], run_name="__main__", alter_sys=True)
    return 0


def _show(text: str) -> int:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # whoever read it has ended; and Python would say so once more as it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return 0


def as_typed(text: str, installed: bool = INSTALLED) -> str:
    """`text` with commands as they are typed here: of an installed package `stillhouse train` for
    `python pipeline/train.py`, and `torchrun -m pipeline.train`."""
    return PATH.sub(_as_installed, text) if installed else text


def _as_installed(found: re.Match[str]) -> str:
    module = f"{found['package']}.{found['file']}"
    name = next((name for name, (of, _) in COMMANDS.items() if of == module), None)
    if name is None:
        return found[0]
    return f"stillhouse {name}" if found["flags"] is None else f"torchrun{found['flags']} -m {module}"


if __name__ == "__main__":
    sys.exit(main())
