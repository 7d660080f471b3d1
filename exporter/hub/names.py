"""What a hub id looks like, beside paths of folders. It imports nothing, so that paths are told apart at no cost."""

from __future__ import annotations


def is_hub_id(name: str) -> bool:
    """Whether a name looks like ``owner/name``, and not like a path. No hub is asked."""
    owner, slash, rest = name.partition("/")
    return bool(slash and owner and rest) and "/" not in rest and not name.startswith((".", "~"))
