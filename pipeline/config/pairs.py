"""The networks of configs/pairs.yaml, and what a pair of networks is called there."""

import functools

from pipeline.config.layers import CONFIGS, read_yaml


@functools.cache
def pair_networks() -> dict[str, dict[str, str]]:
    """{pair: {"teacher": network, "student": network}} of configs/pairs.yaml."""
    pairs = read_yaml(CONFIGS / "pairs.yaml")["pairs"]
    return {name: {part: row[part]["model"] for part in ("teacher", "student")} for name, row in pairs.items()}


def same_network(own: str, other: str | None) -> bool:
    """Whether two names mean one network, whatever stands before the last slash of either."""
    return other is not None and own.rpartition("/")[2].lower() == other.rpartition("/")[2].lower()


def pair_name(teacher: str, student: str) -> str:
    """The pair in configs/pairs.yaml with these networks, else TEACHER-STUDENT."""
    for name, row in pair_networks().items():
        if same_network(teacher, row["teacher"]) and same_network(student, row["student"]):
            return name
    return f"{teacher}-{student}"
