"""The end of a rank: what is registered for it runs, the code is kept, and nothing of torch is taken apart."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
START = """
import atexit, sys, threading, time
from pipeline.process import leaving

class Held:
    def __del__(self):
        print("taken apart")

held = Held()
leaving.at_once(True)
atexit.register(print, "registered")
threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
sys.stdout.write("unflushed ")
"""


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        ("sys.exit(0)", 0, "unflushed thread\nregistered\n"),
        ("leaving.at_once(False); sys.exit(3)", 3, "unflushed thread\nregistered\ntaken apart\n"),
        ("1 / 0", 1, "unflushed thread\nregistered\ntaken apart\n"),
    ],
    ids=["done", "another code", "an exception"],
)
def test_the_end(end: str, code: int, said: str) -> None:
    found = subprocess.run([sys.executable, "-c", START + end], capture_output=True, text=True, cwd=ROOT)
    assert (found.returncode, found.stdout) == (code, said), found.stderr
