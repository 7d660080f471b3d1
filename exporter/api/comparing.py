"""Compare what two bundles, servers or files of vectors answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from exporter.api.arguments import path_of, precision_of
from exporter.bundle.minimum_gate import minimum_gate_of
from exporter.recipe import Gates, Recipe

if TYPE_CHECKING:
    from exporter.comparison import Comparison, Watcher
    from exporter.serving.embeddings import ServerOptions


def compare(
    a: str | Path,
    b: str | Path,
    *,
    text: str | Path | None = None,
    id_column: str | None = None,
    k: int = 10,
    rows: int = 10_000,
    sts: Sequence[str | Path] = (),
    gates: Gates | Recipe | str | Path | None = None,
    min_overlap: float | None = None,
    precision_a: str | None = None,
    precision_b: str | None = None,
    similarity: Literal["cosine", "dot", "euclidean"] | None = None,
    speed: bool = True,
    threads: int | None = None,
    server: ServerOptions | None = None,
    server_b: ServerOptions | None = None,
    require_signature: str | Path | None = None,
    watcher: Watcher | None = None,
) -> Comparison:
    """Say whether vectors that are stored with ``a`` can be searched with ``b``. Needs neither torch nor a checkpoint.

    A side is the folder of a bundle, the URL of a server, a file of vectors (``.npy``, Parquet, Arrow), or what
    ``korsbert embed`` wrote. Queries of each side are searched in the vectors of the other: neighbors within each side
    may agree although no query of one finds anything in the other.

    Args:
        a: What vectors are stored with.
        b: What they are to be searched with.
        text: Sentences, one a line, or JSONL with ``text``; by default the probes that ship. Where one side is a file
            of vectors and the other is not: the text that these vectors were made from, in their order or with ids.
        id_column: The column, or the field of JSONL, that says which rows belong together; by default ``id`` where both
            files have one, else their positions.
        k: How many nearest are compared.
        rows: How many rows are compared at most, evenly spread. Memory grows with them, some 70 bytes for each number
            of a side's vectors (0.7 GiB for 10,000 rows of 1,024 dimensions), and not with the files, which are read in
            blocks. Time grows with the square.
        sts: Task sets to score both sides on.
        gates: How far each side may be from its checkpoint, by precision: a recipe, or a YAML file with a ``gates``
            key; by default korsbert's own. A bundle's own bounds count where they are stricter. A and B may be as far
            from each other as both bounds together say (``exporter/comparison/bounds.py`` derives it).
        min_overlap: The least mean overlap of searches, in place of what the gates leave.
        precision_a: Whose gate counts for ``a``, ``"fp16"`` for example; by default what it says of itself, and
            ``"fp16"`` where it says nothing.
        precision_b: The same for ``b``.
        similarity: How vectors are compared; by default as the model says, or by cosine.
        speed: Measure the speed of two bundles, in turns.
        threads: CPU threads of bundles; by default as many as there are cores.
        server: How a server is asked; of two servers, ``a``.
        server_b: How ``b`` is asked, if not as ``server`` says. Of two servers, ``b`` gets no headers and no key of
            ``server``.
        require_signature: Refuse bundles that are not signed by this (PEM): a public key or certificates.
        watcher: Who is told about progress.

    Returns:
        The comparison, passed or not. ``sentence`` has the answer.

    Raises:
        InputError: A side, a text or an option cannot be used, or there are too few rows for ``k``.
        BundleError: A bundle is damaged.
        RecipeError: The gates cannot be read.
        ServerError: A server cannot be reached, or refuses.
        MissingDependencyError: The engine of a bundle is not installed; or ``pyarrow``, for Parquet and Arrow.
    """
    from exporter import comparison  # noqa: PLC0415 - imports the engines and the clients of servers
    from exporter.comparison.servers import opener_of  # noqa: PLC0415
    from exporter.comparison.sides import is_url  # noqa: PLC0415
    from exporter.serving.embeddings import ServerOptions  # noqa: PLC0415

    options = comparison.CompareOptions(
        text=path_of(text),
        id_column=id_column,
        k=k,
        rows=rows,
        sts=tuple(Path(file) for file in sts),
        minimum_gate=minimum_gate_of(gates),
        min_overlap=min_overlap,
        precisions=(precision_of("precision_a", precision_a), precision_of("precision_b", precision_b)),
        similarity=similarity,
        speed=speed,
        threads=threads,
        require_signature=path_of(require_signature),
    )
    asked = server or ServerOptions()
    without_secrets = dataclasses.replace(asked, headers=(), key=None)
    openers = (opener_of(asked), opener_of(server_b or (without_secrets if is_url(str(a)) else asked)))
    return comparison.compare(str(a), str(b), options, openers, watcher or comparison.Watcher())
