"""Encode the texts of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.bundle.finding import find_bundle
from exporter.errors import InputError

if TYPE_CHECKING:
    from exporter.corpus import EmbedReport, Progress
    from exporter.corpus.options import EmbedOptions


def embed(
    bundle: str | Path,
    inputs: str | Path | Sequence[str | Path],
    out: str | Path,
    options: EmbedOptions | None = None,
    *,
    progress: Progress | None = None,
    **named: Any,
) -> EmbedReport:
    """Encode the texts of a dataset with a bundle, and write their vectors as Parquet, every row once.

    A run that was interrupted goes on where it ended: parts that are complete are not made again. The bytes of the
    vectors are those of an undisturbed run. ``embed(b, "corpus/", "vectors", dtype="int8")`` and
    ``embed(b, "corpus/", "vectors", EmbedOptions(dtype="int8"))`` are the same. Needs ``korsbert[embed]``.

    Args:
        bundle: Folder of the bundle, or its id on the hub, as ``load`` takes it.
        inputs: Files, folders or globs of Parquet, Arrow, JSON Lines, CSV or plain text, here or on an object store
            that ``fsspec`` knows (``s3://...``).
        out: Folder of the output, or a URL of one, new, empty or of an earlier run.
        options: How; see ``EmbedOptions``.
        progress: Who is told about progress.
        **named: Fields of ``EmbedOptions``, instead of ``options``.

    Raises:
        BundleError: The bundle is damaged or was not validated, or another process writes to ``out``.
        InputError: The input cannot be read, a text of it cannot be encoded, or ``out`` belongs to another bundle,
            input or options.
        GateError: A vector that was written differs from that of its text.
        MissingDependencyError: ``pyarrow``, ``fsspec`` or the engine is not installed.
    """
    from exporter import corpus  # noqa: PLC0415 - imports pyarrow

    if options is not None and named:
        raise InputError("options are given twice", next_step=f"put {', '.join(named)} into the EmbedOptions")
    given = [inputs] if isinstance(inputs, str | Path) else inputs
    return corpus.embed(
        find_bundle(bundle).folder,
        [str(one) for one in given],
        str(out),
        options or corpus.EmbedOptions.of(**named),
        progress or corpus.Progress(),
    )
