"""The compiled extension (csrc/module.cpp). Importing it registers ``torch.ops.supernet``; use ``supernet.ops``."""

from typing import Any

def build_info() -> dict[str, Any]: ...
def set_cpu_capability(name: str) -> None: ...

class checks:
    """What each operator takes, and raises RuntimeError for what it refuses."""

    def __getattr__(self, name: str) -> Any: ...
