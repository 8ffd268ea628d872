"""Small files of others: every kind of damage is one line."""

import json
import math
import os
from pathlib import Path

import pytest

from pipeline.utils.untrusted_files import (
    DEPTH,
    Unreadable,
    json_lines,
    parse_json,
    read_bytes,
    read_json,
    read_object,
    read_text,
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "JSONDecodeError: "),
        ("{", "JSONDecodeError: "),
        ("{} {}", "JSONDecodeError: "),
        ('{"a": 1,}', "JSONDecodeError: "),
        ("[" * 100_000, "nested too deeply"),
        ("[" * 500 + "]" * 500, "nested too deeply"),
        ("[" * (DEPTH + 1) + "]" * (DEPTH + 1), "nested too deeply"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "nested too deeply"),
        ("9" * 5000, "a number of 5000 digits"),
        ("-" + "9" * 20, "a number of 21 digits"),
        ("NaN", "the number NaN"),
        ("[-Infinity]", "the number -Infinity"),
        ("1e999", "the number 1e999"),
        (r'{"\ud800": 1}', "text that is no Unicode"),
        (r'["\udfff"]', "text that is no Unicode"),
        (b'"\xff"', "not UTF-8 text"),
    ],
)
def test_damaged_json_is_one_line(text: str | bytes, reason: str) -> None:
    with pytest.raises(Unreadable) as refused:
        parse_json(text, "x.json")
    assert str(refused.value).startswith(f"x.json is damaged: {reason}") and "\n" not in str(refused.value)


def test_what_is_whole_is_read() -> None:
    deep = "[" * DEPTH + "]" * DEPTH
    assert json.dumps(parse_json(deep, "x")) == deep
    assert parse_json(r'{"a": [1, -2.5, 18446744073709551615, "\u00e4\ud83d\ude00", null, true]}', "x") == {
        "a": [1, -2.5, 2**64 - 1, "\u00e4\U0001f600", None, True]
    }
    assert parse_json("[" + "[]," * 200 + "{}]", "x") == [[]] * 200 + [{}]
    assert math.isnan(parse_json("NaN", "x", finite=False))
    assert parse_json("[1e999]", "x", finite=False) == [math.inf]


def test_what_is_no_plain_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "large").write_bytes(b"12345")
    for name, reason in {
        "pipe": "is no plain file",
        "zero": "is no plain file",
        ".": "is a folder",
        "missing": "No such file",
        "large": "is too large",
        "n" * 300: "name too long",
        "loop": "symbolic links",
        "a\0b": "null",
    }.items():
        with pytest.raises(Unreadable, match=reason) as refused:
            read_bytes(tmp_path / name, limit=4)
        assert "\n" not in str(refused.value)


def test_encodings(tmp_path: Path) -> None:
    (tmp_path / "mark").write_bytes(b"\xef\xbb\xbf{}")
    (tmp_path / "wide").write_text("{}", encoding="utf-16")
    assert read_text(tmp_path / "mark") == "{}"
    assert read_object(tmp_path / "mark") == {}
    with pytest.raises(Unreadable, match="not UTF-8"):
        read_json(tmp_path / "wide")
    (tmp_path / "list").write_text("[]")
    with pytest.raises(Unreadable, match="no JSON object"):
        read_object(tmp_path / "list")


def test_records_that_are_whole_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    assert json_lines(file) == []
    deep = b"[" * 100_000
    file.write_bytes(b'{"epoch": 1}\n3\n[]\n\xff\xfe\n' + deep + b'\n\n{"epoch": 2, "loss": NaN}\r\n{"epo')
    first, second = json_lines(file)
    assert first == {"epoch": 1}
    assert second["epoch"] == 2
    file.unlink()
    file.mkdir()
    with pytest.raises(Unreadable, match="is a folder"):
        json_lines(file)
