"""What a machine lacks to run the tool: exit code 2 and a line. python tools/gpu/check.py [--device cpu]"""

import importlib.util
import sys

# Of setup.cfg's install_requires and, for the tests, pytest.
NEEDED = {"torch", "numpy", "yaml", "jinja2", "pydantic", "safetensors", "tensorboard", "rich", "PIL", "simplejpeg"}
NEEDED |= {"submitit"}


def lacking(device: str) -> str | None:
    """Why the tool cannot run, None where it can."""
    missing = sorted(name for name in NEEDED | {"pytest"} if importlib.util.find_spec(name) is None)
    if missing:
        return f"{sys.executable} lacks {', '.join(missing)} (tools/gpu/prepare.sh lays wheels out in .whl)"
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            why = "sees none" if torch.backends.cuda.is_built() else "was built without CUDA"
            return f"no GPU: torch {torch.__version__} {why}"
    return None


if __name__ == "__main__":
    reason = lacking("cpu" if "cpu" in sys.argv else "cuda")
    if reason:
        print(f"error: {reason}", file=sys.stderr)
        sys.exit(2)
