"""How a rank ends that has done its work: without Python taking torch apart.

A thread of gloo may still drop the tensors of its last message when Python ends. It then asks for the interpreter's
lock, which Python answers by ending the thread inside C++: `terminate called without an active exception`, exit code
-6 after a run that is complete (seen in about 1 of 150 runs of two ranks on busy cores, torch 2.13), and the launcher
takes the job for failed.
"""

import atexit
import os
import sys

_at_once = False


def at_once(wanted: bool) -> None:
    """Whether this process ends with code 0 as soon as all that was registered for its end has run; after an exception
    Python ends it all the same."""
    global _at_once
    _at_once = wanted


def _leave() -> None:
    if not _at_once or hasattr(sys, "last_value"):
        return
    if "multiprocessing.util" in sys.modules:  # registered before this module, maybe: twice does no harm
        sys.modules["multiprocessing.util"]._exit_function()
    if "logging" in sys.modules:
        sys.modules["logging"].shutdown()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(0)


atexit.register(_leave)  # pipeline/__init__.py imports this file first: what is registered later runs before it
