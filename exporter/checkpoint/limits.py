"""How many tokens per sentence may be asked for: no more than a checkpoint serves, and room for text."""

from __future__ import annotations

from exporter.errors import InputError


def refuse_more_tokens(wanted: int, served: int, source: str) -> None:
    """Refuse a limit above what a checkpoint serves.

    Args:
        wanted: Tokens per sentence that are asked for, special tokens included.
        served: What the checkpoint serves at most.
        source: The checkpoint, for messages.

    Raises:
        InputError: It is above.
    """
    if wanted > served:
        raise InputError(
            f"`max_seq_length` is {wanted}, and {source} serves at most {served} tokens, special tokens included",
            next_step=f"choose {served} or less, or leave it out",
        )


def refuse_no_room(wanted: int, special: int, source: str) -> None:
    """Refuse a limit that special tokens alone use up.

    Args:
        wanted: Tokens per sentence that are asked for, special tokens included.
        special: Special tokens that the tokenizer adds to every sentence.
        source: The checkpoint, for messages.

    Raises:
        InputError: It leaves no room for text.
    """
    if wanted <= special:
        raise InputError(
            f"`max_seq_length` is {wanted}, and {source} adds {special} special tokens to every sentence",
            next_step=f"choose {special + 1} or more, or leave it out",
        )
