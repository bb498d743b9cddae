"""protobuf ships no types here: messages are Any."""

from typing import Any

def __getattr__(name: str) -> Any: ...
