"""What all sections of keys are made of."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

# `run.name=7` is a name, and YAML reads `off` as false.
Text = Annotated[str, BeforeValidator(lambda v: str(v) if isinstance(v, int | float) and v is not True else v)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Rgb = tuple[float, float, float]
Span = tuple[float, float]


def off(value: Any) -> Any:
    """YAML's false as the word off."""
    return "off" if value is False else value


def on_off(value: Any) -> Any:
    """YAML's true and false as the words on and off."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


def at_once(value: Any) -> Any:
    """auto as 0, off (YAML's false) as 1."""
    words = {"auto": 0, "off": 1, False: 1}
    return words.get(value, value) if isinstance(value, str | bool) else value


def key(default: Any, text: str, **limits: Any) -> Any:
    """A field with its default and its help text."""
    return Field(default, description=text, **limits)


class Section(BaseModel):
    """Frozen, no unknown keys, no infinities."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
