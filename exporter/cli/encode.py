"""``korsbert encode``: text to vectors."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from exporter.cli.arguments import BatchSizeOption, BundleArgument
from exporter.cli.output import stderr_console, write_output
from exporter.errors import InputError
from exporter.files import TEXT, read_file
from exporter.runtime.contract import VectorType


def encode_command(
    bundle: BundleArgument,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="Text file with one sentence per line (default, or -: stdin)."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE.npy", help="Write the vectors as an array of shape (lines, dimension)."),
    ] = None,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Normalize every vector to length 1, after it is truncated.")
    ] = False,
    precision: Annotated[
        VectorType,
        typer.Option(
            "--precision",
            help="Type of the vectors. int8 and uint8 use the ranges of the bundle; binary and ubinary pack the signs "
            "of eight dimensions into one number.",
        ),
    ] = "float32",
    truncate_dim: Annotated[
        int | None,
        typer.Option(
            "--truncate-dim", metavar="N", min=1, help="Keep the first N dimensions (default: as the checkpoint says)."
        ),
    ] = None,
    prompt_name: Annotated[
        str | None,
        typer.Option(
            "--prompt-name",
            metavar="NAME",
            help="Put the model's prompt of this name before every sentence (default: the model's default prompt).",
        ),
    ] = None,
    batch_size: BatchSizeOption = 32,
) -> None:
    """Encode text to a .npy file, or to stdout as one JSON array per line."""
    import numpy as np

    from exporter.bundle import Bundle
    from exporter.bundle.finding import find_bundle

    if file is not None and out is not None and file.exists() and out.exists() and file.samefile(out):
        raise InputError(f"{out}: is the text to encode", next_step="write the vectors to another file")
    lines = _lines(file)
    with Bundle.open(find_bundle(bundle).folder, for_encoding=True).encoder(truncate_dim=truncate_dim) as encoder:
        if prompt_name is not None and prompt_name not in encoder.prompts:
            known = ", ".join(encoder.prompts) or "none"
            raise InputError(f"the model has no prompt {prompt_name!r}", next_step=f"its prompts are: {known}")
        vectors = encoder.encode(
            lines,
            prompt_name,
            batch_size=batch_size,
            show_progress_bar=sys.stderr.isatty(),
            precision=precision,
            normalize_embeddings=normalize,
        )
    if not lines:
        columns = -(-encoder.dimension // 8) if precision in ("binary", "ubinary") else encoder.dimension
        vectors = vectors.reshape(0, columns)
    if out is None:
        for vector in vectors:
            numbers = vector.tolist() if vector.dtype.kind in "iu" else [float(f"{x:.9g}") for x in vector]
            sys.stdout.write(json.dumps(numbers) + "\n")
        return
    buffer = io.BytesIO()
    np.save(buffer, vectors)
    write_output(out, buffer.getbuffer())
    stderr_console().print(f"{vectors.shape[0]} x {vectors.shape[1]} {vectors.dtype} in {out}")


def _lines(file: Path | None) -> list[str]:
    """Read one sentence per line. An empty line is an empty sentence, so rows and lines have the same numbers."""
    try:
        data = _stdin() if file is None or str(file) == "-" else read_file(file, TEXT, stream=True)
        # Not str.splitlines, which also splits at U+2028 and others: lines are counted as `wc -l` counts them.
        return [line.removesuffix("\n") for line in io.StringIO(data.decode("utf-8-sig"), newline=None)]
    except OSError as error:
        raise InputError(
            f"{file}: cannot be read: {error.strerror}", next_step="give a text file with one sentence per line"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file or 'stdin'}: not UTF-8 at byte {error.start}", next_step="save it as UTF-8") from error


def _stdin() -> bytes:
    data = sys.stdin.buffer.read(TEXT + 1)
    if len(data) > TEXT:
        raise InputError(f"stdin: larger than {TEXT // 2**20:,} MiB", next_step="encode the text in parts")
    return data
