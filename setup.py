"""What setup.cfg cannot say: configs/ travels inside the package pipeline."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Copies configs/ to pipeline/configs of what is built: see pipeline/utils/places.py."""

    def run(self) -> None:
        """Builds anew: a module that has moved since an earlier build would be installed in both places."""
        if not self.editable_mode:
            for package in ("pipeline", "launch", "data_prep"):
                shutil.rmtree(Path(self.build_lib, package), ignore_errors=True)
        super().run()
        if not self.editable_mode:
            shutil.copytree("configs", Path(self.build_lib, "pipeline", "configs"))


setup(cmdclass={"build_py": BuildWithConfigs})
