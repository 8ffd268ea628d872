"""Downloads: whole or not there, gone on with when the server still has the very same file."""

import fcntl
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import web

from pipeline.contracts import InputError
from pipeline.datasets import downloads
from pipeline.datasets.downloads import fetch

CONTENT = random.Random(5).randbytes(300_000)
OTHER = random.Random(6).randbytes(250_000)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[web.Site]:
    monkeypatch.setattr(downloads, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(downloads, "CHUNK", 4096)
    with web.serve() as running:
        running.files["file"] = CONTENT
        yield running


def anything(path: Path) -> None:
    assert path.is_file()


def get(site: web.Site, folder: Path) -> bytes:
    target = fetch(site.url + "file", folder / "file", check=anything)
    assert sorted(p.name for p in folder.iterdir()) == ["file"]  # no part, no note
    return target.read_bytes()


def break_off(site: web.Site, folder: Path, after: int = 100_000) -> None:
    """A first call that ends for good: the second request brings nothing."""
    site.cuts = [after, 0]
    with pytest.raises(InputError, match=r"ended after 100000 of 300000 bytes; what has come is kept, call again"):
        fetch(site.url + "file", folder / "file", check=anything)
    assert sorted(p.name for p in folder.iterdir()) == [".file.part", ".file.part.json"]
    site.asked.clear()


def test_whole(site: web.Site, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    fetch(site.url + "file", tmp_path / "new" / "file", check=anything, told=lambda *state: told.append(state))
    assert (tmp_path / "new" / "file").read_bytes() == CONTENT
    assert told[-1] == (300_000, 300_000) and [done for done, _ in told] == sorted(done for done, _ in told)
    assert site.asked == [("file", None, None)]


def test_cut_connections_are_gone_on_with_at_once(site: web.Site, tmp_path: Path) -> None:
    site.cuts = [100_000, 50_000, 1]
    assert get(site, tmp_path) == CONTENT
    starts = [wanted for _, wanted, _ in site.asked]
    assert starts == [None, "bytes=100000-", "bytes=150000-", "bytes=150001-"]
    assert {condition for _, _, condition in site.asked[1:]} == {'"1"'}


def test_a_later_call_goes_on(site: web.Site, tmp_path: Path) -> None:
    break_off(site, tmp_path)
    assert get(site, tmp_path) == CONTENT and site.asked == [("file", "bytes=100000-", '"1"')]


@pytest.mark.parametrize(
    ("tag", "date", "condition"),
    [
        (None, "Wed, 01 Jan 2020 00:00:00 GMT", "Wed, 01 Jan 2020 00:00:00 GMT"),
        ('W/"1"', None, None),
        (None, None, None),
    ],
)
def test_validators(tag: str | None, date: str | None, condition: str | None, site: web.Site, tmp_path: Path) -> None:
    site.tag, site.date = tag, date
    break_off(site, tmp_path)
    assert get(site, tmp_path) == CONTENT and site.asked == [("file", "bytes=100000-", condition)]


def test_another_file_is_fetched_anew(site: web.Site, tmp_path: Path) -> None:
    break_off(site, tmp_path)
    site.files["file"], site.tag = OTHER, '"2"'
    assert get(site, tmp_path) == OTHER and len(site.asked) == 1


@pytest.mark.parametrize("other", [OTHER, OTHER[:50_000]])
def test_another_length_is_fetched_anew(other: bytes, site: web.Site, tmp_path: Path) -> None:
    site.tag = None
    break_off(site, tmp_path)
    site.files["file"] = other
    assert get(site, tmp_path) == other
    assert [wanted for _, wanted, _ in site.asked] == ["bytes=100000-", None]


def test_a_server_without_ranges_starts_again(site: web.Site, tmp_path: Path) -> None:
    break_off(site, tmp_path)
    site.ranges = False
    assert get(site, tmp_path) == CONTENT and site.asked == [("file", "bytes=100000-", '"1"')]


def test_without_a_length(site: web.Site, tmp_path: Path) -> None:
    site.sized = False
    assert get(site, tmp_path) == CONTENT


ODD = ('{"url": "URL", "total": 9, "validator": 7}', '{"url": "URL", "total": 9, "validator": "a\\nb"}', "[" * 9999)


@pytest.mark.parametrize("note", ["", "[]", "{}", '{"url": 3}', None, *ODD], ids=lambda note: str(note)[:40])
def test_a_part_without_its_note_is_not_gone_on_with(note: str | None, site: web.Site, tmp_path: Path) -> None:
    (tmp_path / ".file.part").write_bytes(OTHER[:1000])
    if note is not None:
        (tmp_path / ".file.part.json").write_text(note.replace("URL", f"{site.url}file"))
    assert get(site, tmp_path) == CONTENT and site.asked == [("file", None, None)]


def test_a_part_of_another_address_is_not_gone_on_with(site: web.Site, tmp_path: Path) -> None:
    break_off(site, tmp_path)
    site.files["elsewhere"] = OTHER
    fetch(site.url + "elsewhere", tmp_path / "file", check=anything)
    assert (tmp_path / "file").read_bytes() == OTHER


def test_a_whole_part_is_not_fetched_again(site: web.Site, tmp_path: Path) -> None:
    """Killed between the last byte and the renaming."""
    break_off(site, tmp_path)
    (tmp_path / ".file.part").write_bytes(CONTENT)
    assert get(site, tmp_path) == CONTENT and site.asked == []


def test_a_refused_file_is_deleted(site: web.Site, tmp_path: Path) -> None:
    def refuse(path: Path) -> None:
        raise InputError(f"{path.stat().st_size} wrong bytes")

    (tmp_path / "file").write_bytes(b"what was there before")
    with pytest.raises(InputError, match=r"^300000 wrong bytes$"):
        fetch(site.url + "file", tmp_path / "file", check=refuse)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"what was there before"


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_errors_of_the_server(status: int, site: web.Site, tmp_path: Path) -> None:
    site.status = status
    with pytest.raises(InputError, match=f"could not fetch .*{status}.*; put file there by hand") as caught:
        fetch(site.url + "file", tmp_path / "file", check=anything)
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == [] and len(site.asked) == 1


def test_an_error_keeps_what_has_come(site: web.Site, tmp_path: Path) -> None:
    break_off(site, tmp_path)
    site.status = 503
    with pytest.raises(InputError, match="what has come is kept"):
        fetch(site.url + "file", tmp_path / "file", check=anything)
    site.status = 200
    assert get(site, tmp_path) == CONTENT


def test_two_at_once(site: web.Site, tmp_path: Path) -> None:
    with (tmp_path / ".file.part").open("ab") as other:
        other.write(b"x")
        other.flush()
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="is being written by another process"):
            fetch(site.url + "file", tmp_path / "file", check=anything)
    assert get(site, tmp_path) == CONTENT


def test_a_part_that_was_renamed_meanwhile_is_not_touched(
    site: web.Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process finishes between the opening and the locking."""

    def finish(handle: object) -> bool:
        (tmp_path / ".file.part").write_bytes(CONTENT)
        (tmp_path / ".file.part").rename(tmp_path / "file")
        return True

    monkeypatch.setattr(downloads, "_locked", finish)
    with pytest.raises(InputError, match="is being written by another process"):
        fetch(site.url + "file", tmp_path / "file", check=anything)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_the_note_says_what_is_being_fetched(site: web.Site, tmp_path: Path) -> None:
    break_off(site, tmp_path)
    note = json.loads((tmp_path / ".file.part.json").read_text())
    assert note == {"url": site.url + "file", "total": 300_000, "validator": '"1"'}
