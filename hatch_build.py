"""Building and installing the package: its kernels are compiled for the machine that does it."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class KernelsHook(BuildHookInterface):
    """Put an object file of the kernels into the wheel; of an editable installation, into the user's cache.

    Where that fails the package is installed all the same, and compiles them when they are first needed.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and say what belongs to the wheel, and which machines that is for."""
        self._folder = TemporaryDirectory()
        if version == "editable":
            # The sources may change, and the object file with them.
            self._compile()
        elif self._compile(self._folder.name):
            for file in Path(self._folder.name).iterdir():
                build_data["force_include"][str(file)] = f"atlas/kernels/{file.name}"
            build_data["pure_python"] = False
            # Any Python; which processors the file itself says.
            build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"

    def _compile(self, *directory: str) -> bool:
        done = subprocess.run(
            [sys.executable, "-m", "atlas.kernels.build", *directory], cwd=self.root, capture_output=True, text=True
        )
        if done.returncode:
            self.app.display_warning(f"the kernels were not compiled, first use will do it:\n{done.stderr.strip()}")
        return done.returncode == 0

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what the wheel has a copy of."""
        self._folder.cleanup()
