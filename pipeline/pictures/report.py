"""Pictures drawn and written: one as a file, or all in a report."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

from pipeline.contracts import InputError
from pipeline.engine.distributed import parallel
from pipeline.pictures import PICTURES, Nothing, page
from pipeline.pictures.keys import VisualizeConfig
from pipeline.pictures.material import Material
from pipeline.run_folder.groups import read_runs, remarks
from pipeline.utils.atomic import write_atomically


def write_pictures(config: VisualizeConfig) -> None:
    """Draws what `config` asks for into its file, and prints a line. Raises InputError."""
    names = _chosen(config)
    out = _checked(config, names)
    runs = read_runs(config.runs)
    lines = remarks(runs)
    for line in lines:
        say(line)
    with parallel.start(config.runtime) as world:
        if world.ranks > 1:
            raise InputError("pictures are drawn by one process: start it without torchrun")
        settings = {"images": config.images, "points": config.points, "root": config.root, "workers": config.workers}
        material = Material(runs, world, note=say, **settings)  # type: ignore[arg-type]
        if page.suffix_of(config.out) in page.PAGES:
            content = _report(config.title, names, material, lines).encode(errors="backslashreplace")
        else:
            content = _single(names[0], material, page.suffix_of(config.out))
    try:
        write_atomically(out, content)
    except OSError as error:
        raise InputError(f"out={config.out}: {error.strerror}") from None
    print(f"wrote {config.out}: {', '.join(names)} of {len(runs)} run(s)")


def say(line: str) -> None:
    """Standard output is left to the result."""
    print(line, file=sys.stderr, flush=True)


def _chosen(config: VisualizeConfig) -> list[str]:
    """Pictures asked for, in the report's order."""
    names = {PICTURES.canonical(name) for name in config.what or PICTURES.names()}
    return sorted(names, key=lambda name: PICTURES.get(name).order)


def _checked(config: VisualizeConfig, names: list[str]) -> Path:
    out, suffix = Path(config.out), page.suffix_of(config.out)
    if suffix not in page.IMAGES + page.PAGES:
        raise InputError(f"out={config.out}: the suffix must be one of {', '.join(page.PAGES + page.IMAGES)}")
    if suffix in page.IMAGES and len(names) != 1:
        raise InputError(f"out={config.out} holds one picture: what= one of {', '.join(names)} (a report: .html)")
    if not out.parent.is_dir() or out.is_dir():
        raise InputError(f"out={config.out}: {'is a folder' if out.is_dir() else 'no such folder'}")
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("pictures need matplotlib: pip install 'stillhouse[plot]'")
    return out


def _single(name: str, material: Material, suffix: str) -> bytes:
    try:
        return page.saved(PICTURES.get(name).draw(material), suffix)
    except Nothing as reason:
        raise InputError(f"what={name}: {reason}") from None


def _report(title: str, names: list[str], material: Material, lines: list[str]) -> str:
    means = "Test set, last and best epoch apart: mean ± sample standard deviation over the seeds that are done."
    sections = [page.Section(title="Results", about=means, table=page.results(material.groups))]
    for name in names:
        kind = PICTURES.get(name)
        section = page.Section(title=kind.title, about=kind.about)
        try:
            drawn = page.picture(page.saved(kind.draw(material), ".png"))
            sections.append(replace(section, picture=drawn))
        except Nothing as reason:
            sections.append(replace(section, missing=str(reason)))
    about = "Best is the best epoch's. Speed is that of training."
    sections.append(page.Section(title="Runs", about=about, table=page.table(material.groups)))
    return page.page(title, lines, sections)
