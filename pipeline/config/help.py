"""What `--help` prints: every key of an entry point with its default, its choices and its unit."""

from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from pipeline.config.words import section_of


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ",".join(_default(v) for v in value) + "]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _choices(annotation: Any) -> str:
    values = get_args(annotation)
    return f" ({'|'.join(values)})" if values and all(isinstance(v, str) for v in values) else ""


def _lines(schema: type[BaseModel], prefix: str) -> list[str]:
    lines: list[str] = []
    for name, field in schema.model_fields.items():
        section = section_of(field.annotation)
        if section is not None:
            lines += ["", *_lines(section, f"{prefix}{name}.")]
        else:
            text = f"{field.description}{_choices(field.annotation)}"
            lines.append(f"  {prefix + name + '=' + _default(field.default):44} {text}")
    return lines


def describe(usage: str, schema: type[BaseModel], footer: str = "") -> str:
    """The help text: `usage`, then one line for each key (key=default, meaning, choices, unit), then `footer`."""
    head = [usage, "", "Keys, with their defaults (a data set, a pair, a method or a recipe may set others):", ""]
    tail = ["", "  config=FILE                                  a YAML file of keys, such as runs/x/config.yaml"]
    return "\n".join([*head, *_lines(schema, ""), *tail, *([footer] if footer else [])])
