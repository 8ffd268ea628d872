"""Keys of pipeline/visualize.py."""

from typing import Annotated, Any

from pydantic import BeforeValidator

from pipeline.config import RuntimeConfig, compose
from pipeline.config.base import NEVER, PathText, Section, Text, key


def _words(value: Any) -> Any:
    if isinstance(value, str | int | float) and value is not True:
        value = str(value).split(",")
    return tuple(str(word).strip() for word in value if str(word).strip()) if isinstance(value, list) else value


Words = Annotated[tuple[Text, ...], BeforeValidator(_words)]
Paths = Annotated[tuple[PathText, ...], BeforeValidator(_words)]


class VisualizeConfig(Section):
    """What to draw of which runs."""

    runs: Paths = key(..., "run folders, or folders of runs, as DIR,DIR", affects="numbers", min_length=1)
    out: PathText = key(
        ..., "FILE.html: one report of all pictures; FILE.png, .svg: the one picture of what=", affects="place"
    )
    what: Words = key((), "pictures, as curves,speed; default all", affects="log")
    images: int = key(
        10_000, "test images that networks are run on, evenly spread, 0 = all", affects="log", ge=0, le=NEVER
    )
    points: int = key(2000, "of them in t-SNE", affects="log", ge=5, le=10_000)
    root: PathText | None = key(
        None, "folder of the data set where it is not that of the runs; `data.root=` is the same", affects="place"
    )
    workers: int = key(0, "worker processes that read the images", affects="speed", ge=0, le=1024)
    title: Text = key("Runs", "heading of the report", affects="log")
    runtime: RuntimeConfig = RuntimeConfig()


def visualize_config(argv: list[str]) -> VisualizeConfig:
    """The configuration of a command line. Raises ConfigError with all problems, HelpRequested."""
    return compose(VisualizeConfig, argv, aliases={"data.root": "root"})
