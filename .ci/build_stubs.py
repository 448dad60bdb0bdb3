"""Ship alma.py a second time, as alma-stubs/__init__.pyi, so that type checkers see its types.

The marker py.typed of PEP 561 works for packages only: checkers take every name of an installed
single module for Any. A stub package they do read, and a copy of the source serves as one.
With `pip install -e .` it is the copy of that moment: install again when signatures have changed.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any, Dict

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class StubsHook(BuildHookInterface):  # type: ignore[type-arg]
    """Called by hatchling before and after it builds a wheel."""

    def initialize(self, version: str, build_data: Dict[str, Any]) -> None:
        # Naming alma.py itself here would move it: the wheel would hold the stubs and no module.
        self.folder = tempfile.mkdtemp(prefix="alma-stubs-")
        stubs = shutil.copyfile(Path(self.root, "alma.py"), Path(self.folder, "__init__.pyi"))
        included = "force_include_editable" if version == "editable" else "force_include"
        build_data[included][str(stubs)] = "alma-stubs/__init__.pyi"

    def finalize(self, version: str, build_data: Dict[str, Any], artifact_path: str) -> None:
        shutil.rmtree(self.folder)
