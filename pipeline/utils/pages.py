"""HTML pages out of templates; all that is filled in is escaped."""

from pathlib import Path
from typing import Any


def render(template: Path, **values: Any) -> str:
    """The page. Every name that the template uses must be among `values`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # a fifth of a second

    environment = Environment(
        loader=FileSystemLoader(template.parent),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template.name).render(values)
