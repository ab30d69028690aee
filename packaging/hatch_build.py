"""Build hook of hatchling: man pages and shell completions, which ./package generates, go into sdist and wheel.

./package names the folder in $IBBOND_SHARE while it builds the sdist; a wheel takes it from the sdist. A build from a
checkout (`pip install .`) has neither and goes without.
"""

import os
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class GeneratedFiles(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name == "sdist" and (share := os.environ.get("IBBOND_SHARE")):
            build_data["force_include"][share] = "share"
        elif version == "standard" and (share_of_sdist := Path(self.root, "share")).is_dir():
            build_data["shared_data"][str(share_of_sdist)] = "share"
