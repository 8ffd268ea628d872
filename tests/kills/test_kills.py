"""A few random kills of each area: kill.py is the tool for more."""

from pathlib import Path

import areas
import kill
import pytest


@pytest.mark.slow
@pytest.mark.parametrize("area", [area.name for area in areas.AREAS])
def test_killed_commands_end_as_if_nothing_had_been(area: str, tmp_path: Path) -> None:
    tallies = kill.kill(3, 1, tmp_path, area)
    print(kill.table(tallies))
    assert [tally.unequal for tally in tallies.values()] == [()]
    assert all(tally.results for tally in tallies.values())
