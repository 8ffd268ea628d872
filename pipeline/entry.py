"""How all entry points end: 0 done, 2 bad configuration or input, 75 stopped by a signal, 1 anything else."""

import os
import sys
from collections.abc import Callable
from typing import NoReturn

from pipeline.config import ConfigError, HelpRequested
from pipeline.contracts import InputError, NotWritten
from pipeline.files import disk_refuses, refusal
from pipeline.readings import Unreadable
from pipeline.registry import UnknownName

USER_ERROR = 2


def _say(text: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(text, file=sys.stderr, flush=True)


def run(
    main: Callable[[list[str]], None], help_text: Callable[[], str], failures: dict[type[Exception], int]
) -> NoReturn:
    """Calls main(arguments) and ends the process. failures: further exceptions that are one line and an exit code."""
    try:
        main(sys.argv[1:])
    except HelpRequested:
        print(help_text())
    except ConfigError as error:
        _say("\n".join(f"error: {problem}" for problem in error.problems))
        sys.exit(USER_ERROR)
    except (InputError, UnknownName, Unreadable) as error:
        _say(f"error: {error.args[0]}")
        sys.exit(USER_ERROR)
    except NotWritten as error:
        _say(f"error: {error}")
        sys.exit(1)
    except OSError as error:
        if not disk_refuses(error):
            raise
        _say(f"error: {refusal(error)}")
        sys.exit(1)
    except tuple(failures) as error:
        _say(f"{type(error).__name__}: {error}")
        sys.exit(failures[type(error)])
    sys.exit(0)
