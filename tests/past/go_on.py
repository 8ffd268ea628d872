"""Runs entry points one after another in this process: go_on.py FILE with a JSON list of [module, words]; ends with the
first exit code that is not 0."""

import importlib
import json
import sys
from pathlib import Path

from pipeline import cli

for name, words in json.loads(Path(sys.argv[1]).read_text()):
    module = importlib.import_module(f"pipeline.{name}")
    sys.argv = [f"pipeline/{name}.py", *words]
    try:
        cli.run(module.main, module.help_text, getattr(module, "FAILURES", {}))
    except SystemExit as ended:
        if ended.code:
            raise
