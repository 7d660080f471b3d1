"""What Python users call: load a bundle, export one, validate one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from exporter.bundle import Bundle
from exporter.bundle.finding import Found, download_bundle, find_bundle
from exporter.bundle.minimum_gate import minimum_gate_of
from exporter.dependencies import EXPORT_PACKAGES, REFERENCE_PACKAGES, refuse_missing, require_all
from exporter.errors import ExportError, InputError
from exporter.options import ExportOptions, TuneOptions
from exporter.recipe import Gates, Recipe, find_recipe
from exporter.runtime.encoder import Encoder
from exporter.stages import Stages
from exporter.targets import Device, Precision

if TYPE_CHECKING:
    from exporter.bundle.pushing import Pushed
    from exporter.comparison import Comparison, Watcher
    from exporter.corpus import EmbedReport, Progress
    from exporter.corpus.options import EmbedOptions
    from exporter.golden import GoldenFacts
    from exporter.serving.embeddings import ServerOptions
    from exporter.tuning import Tuned
    from exporter.validator import ParityReport


def load(
    path: str | Path,
    *,
    revision: str | None = None,
    device: str | None = None,
    threads: int | None = None,
    truncate_dim: int | None = None,
    require_signature: str | Path | None = None,
) -> Encoder:
    """Open a bundle for encoding, after comparing its files with their hashes.

    Needs neither torch nor transformers: numpy, tokenizers and the bundle's engine.

    Args:
        path: Folder of the bundle, or its id on the Hugging Face hub: ``owner/name``, or ``owner/name@revision``. A
            folder of that name wins. A bundle of the hub is downloaded into the cache of ``huggingface_hub``.
        revision: Branch, tag or commit on the hub.
        device: ``"cpu"`` or ``"cuda"``; by default where the bundle was validated.
        threads: CPU threads; by default the engine decides.
        truncate_dim: To how many dimensions ``encode`` truncates vectors; by default as the checkpoint says. A model
            that was not trained for it (Matryoshka) loses much.
        require_signature: Refuse the bundle unless it is signed by this: a PEM file with a public key, or with
            certificates that the signer's certificate must lead to. Needs ``korsbert[sign]``.

    Returns:
        The encoder. It can be pickled, for worker processes: the bundle is then opened again, with these arguments; a
        bundle of the hub at the same commit.

    Raises:
        BundleError: No bundle there, a file of it is missing, altered or not listed, or a signature is required and is
            not there or not valid.
        HubError: The hub cannot be reached, and its cache does not hold the bundle.
        ValueError: ``truncate_dim`` is below 1.
        InputError: ``require_signature`` is not a file of keys or certificates, or ``revision`` is given for a folder.
        MissingDependencyError: The engine is not installed, or the device is not there.
    """
    where, trusted = _device(device), _path(require_signature)
    return _opened(
        find_bundle(path, revision),
        device=where,
        threads=threads,
        truncate_dim=truncate_dim,
        require_signature=trusted,
    )


def _opened(
    found: Found,
    *,
    device: Device | None,
    threads: int | None,
    truncate_dim: int | None,
    require_signature: Path | None,
) -> Encoder:
    """Open a bundle that has been found, and tell the encoder how a worker process opens it again."""
    bundle = Bundle.open(found.folder, require_signature=require_signature, for_encoding=True)
    encoder = bundle.encoder(device=device, threads=threads, truncate_dim=truncate_dim)
    return encoder.opened_by(
        partial(
            _opened_again,
            found.repository or found.folder.absolute(),  # a worker may have another working folder
            found.commit,
            device=device,
            threads=threads,
            truncate_dim=truncate_dim,
            require_signature=None if require_signature is None else require_signature.absolute(),
        )
    )


def _opened_again(
    place: str | Path,
    commit: str | None,
    *,
    device: Device | None,
    threads: int | None,
    truncate_dim: int | None,
    require_signature: Path | None,
) -> Encoder:
    """Open a bundle in a worker process: a folder, or a commit on the hub, whatever folders the worker has."""
    found = Found(Path(place)) if commit is None else download_bundle(str(place), commit)
    return _opened(
        found, device=device, threads=threads, truncate_dim=truncate_dim, require_signature=require_signature
    )


def export(
    model: str | Recipe, options: ExportOptions | None = None, *, stages: Stages | None = None, **named: Any
) -> Bundle:
    """Export a checkpoint, prove the result equal to it, and publish it.

    ``export("demo", precision="fp16")`` and ``export("demo", ExportOptions(precision="fp16"))`` are the same.

    Args:
        model: Name of a recipe, a local folder, a hub id (``owner/name``), or a recipe.
        options: How to export; see ``ExportOptions``.
        stages: Who is told about progress.
        **named: Fields of ``ExportOptions``, instead of ``options``.

    Raises:
        GateError: The result differs by more than the recipe's gates allow; nothing was published.
        ExportError: Anything else that stops it; see ``exporter.errors``.
    """
    options = _export_options(options, named)
    recipe = model if isinstance(model, Recipe) else find_recipe(model)
    refuse_missing(EXPORT_PACKAGES)
    from exporter import acceptance  # noqa: PLC0415 - imports onnx_ir

    acceptance.refuse_what_cannot_be_done(recipe, options)
    require_all(EXPORT_PACKAGES)
    from exporter import pipeline  # noqa: PLC0415 - imports torch

    return pipeline.export(recipe, options, stages)


def export_precisions(
    model: str | Recipe,
    precisions: Sequence[str],
    options: ExportOptions | None = None,
    *,
    stages: Stages | None = None,
    **named: Any,
) -> dict[Precision, Bundle | ExportError]:
    """Export a checkpoint in several precisions, which share the work that does not depend on the precision.

    The checkpoint is loaded, encoded and folded once, and the float32 graph is judged once. Each bundle is published as
    soon as it has passed. That one precision is refused does not stop the others.

    Args:
        model: Name of a recipe, a local folder, a hub id (``owner/name``), or a recipe.
        precisions: ``"fp32"``, ``"fp16"``, ``"bf16"``, ``"int8"``, ``"int8_dynamic"``: one or more, each once.
        options: How to export, all but the precision.
        stages: Who is told about progress.
        **named: Fields of ``ExportOptions``, instead of ``options``.

    Returns:
        By precision, in the order that was asked for: the bundle, or the error of the gate or of the engine's build.

    Raises:
        InputError: No precision, an unknown one, or one twice.
        ExportError: What stops them all: a precision that this machine cannot run, or a place that is taken, say.
    """
    chosen = [_precision("precisions", name) for name in precisions]
    if not chosen or len(set(chosen)) < len(chosen):
        raise InputError("`precisions` is empty or names one twice", next_step="name each once")
    options = _export_options(options, named)
    recipe = model if isinstance(model, Recipe) else find_recipe(model)
    refuse_missing(EXPORT_PACKAGES)
    from exporter import acceptance  # noqa: PLC0415 - imports onnx_ir

    for one in chosen:
        acceptance.refuse_target(recipe, options.model_copy(update={"precision": one}))
    acceptance.refuse_source(recipe, options)
    require_all(EXPORT_PACKAGES)
    from exporter import pipeline  # noqa: PLC0415 - imports torch

    return dict(zip(chosen, pipeline.export_precisions(recipe, chosen, options, stages), strict=True))


def tune(
    model: str | Recipe,
    tuning: TuneOptions | None = None,
    options: ExportOptions | None = None,
    *,
    stages: Stages | None = None,
    **named: Any,
) -> Tuned:
    """Export a checkpoint for every engine of this machine, measure them side by side, and publish the best one.

    ``tune("demo", goal="latency", max_seq_length=128)``: the name says which options it belongs to. The engines share
    the work that does not depend on the target. Only the winner is published. If the call is interrupted, the same call
    goes on from what has passed by then.

    Args:
        model: Name of a recipe, a local folder, a hub id (``owner/name``), or a recipe.
        tuning: What is compared, how it is measured, and what is chosen.
        options: How to export, all but the precision and the backend.
        stages: Who is told about progress.
        **named: Fields of ``TuneOptions`` and ``ExportOptions``, instead of ``tuning`` and ``options``.

    Raises:
        GateError: No engine passes its gate, or none has ``min_cosine``; nothing was published.
        BundleError: A bundle is where the winner may go, and ``force`` is off.
        ExportError: Anything else that stops it; see ``exporter.errors``.
    """
    own = {name: named.pop(name) for name in [*named] if name in TuneOptions.model_fields}
    if tuning is not None and own:
        raise InputError("options are given twice", next_step=f"put {', '.join(own)} into the TuneOptions")
    chosen = [name for name in ("precision", "backend") if name in named]
    if chosen:
        raise InputError(f"`tune` chooses the {chosen[0]}", next_step=f"name those to compare in `{chosen[0]}s`")
    if named.get("unvalidated") or (options is not None and options.unvalidated):
        raise InputError("`tune` measures engines, so it has no `unvalidated`", next_step="leave it out")
    tuning, options = tuning or TuneOptions.of(**own), _export_options(options, named)
    recipe = model if isinstance(model, Recipe) else find_recipe(model)
    refuse_missing(EXPORT_PACKAGES)
    from exporter import acceptance  # noqa: PLC0415 - imports onnx_ir

    acceptance.refuse_source(recipe, options, text=tuning.text)
    require_all(EXPORT_PACKAGES)
    from exporter.tuning import tune  # noqa: PLC0415 - imports torch

    return tune(recipe, tuning, options, stages)


def write_golden(
    model: str | Path | Recipe,
    out: str | Path,
    *,
    dtype: Literal["float32", "float16"] = "float32",
    checkpoint: str | Path | None = None,
    revision: str | None = None,
    stages: Stages | None = None,
) -> GoldenFacts:
    """Write what a checkpoint answers to the probes to a golden file, for gates without torch, weights and hub.

    Args:
        model: Name of a recipe, a local folder, a hub id (``owner/name``), a recipe, or the folder of a bundle: then
            the checkpoint that it was made from.
        out: The file. It is replaced if it is there.
        dtype: Type of the vectors in it. float16 makes it half as large, and too coarse to judge float32.
        checkpoint: A local copy of the checkpoint, used instead of its source.
        revision: Branch, tag or commit on the hub, instead of the recipe's.
        stages: Who is told about progress.

    Returns:
        What the file says besides its tensors.

    Raises:
        InputError: ``out`` cannot be written, or the vectors do not fit into ``dtype``.
        CheckpointError: The checkpoint cannot be loaded, or holds other weights than the bundle was made from.
    """
    refuse_missing(REFERENCE_PACKAGES)
    from exporter.golden.file import refuse_to_replace_other_file  # noqa: PLC0415 - imports safetensors
    from exporter.golden.file import write_golden as write  # noqa: PLC0415 - imports safetensors

    refuse_to_replace_other_file(Path(out))
    require_all(REFERENCE_PACKAGES)
    from exporter.golden import making  # noqa: PLC0415 - imports torch

    named = model if isinstance(model, Recipe) else str(model)
    stages = stages or Stages()
    with stages("load checkpoint") as stage:
        loaded, recipe = making.load_model(named, checkpoint=_path(checkpoint), revision=revision)
        stage.result = loaded.facts.summary
    return write(Path(out), making.golden_of(loaded, recipe, dtype, stages))


def validate(
    bundle: str | Path | Bundle,
    *,
    checkpoint: str | Path | None = None,
    golden: str | Path | None = None,
    sts: Sequence[str | Path] = (),
    device: str | None = None,
    gates: Gates | Recipe | str | Path | None = None,
    require_signature: str | Path | None = None,
) -> ParityReport:
    """Repeat a bundle's gate on this machine, and return the report, passed or not.

    Args:
        bundle: A bundle, its folder, or its id on the hub, as ``load`` takes it.
        checkpoint: A local copy of the checkpoint; by default the source in the manifest, at its commit.
        golden: A golden file, whose answers take the place of the checkpoint's: then neither torch nor the checkpoint
            is needed, and weights, graph and sweeps are not compared.
        sts: Task sets to score both sides on.
        device: Where the bundle runs; by default where it was validated.
        gates: The least that the bundle must reach, whatever gate it states itself: a recipe, or a YAML file with a
            ``gates`` key; by default korsbert's own bounds. The bundle's own bounds count where they are stricter.
        require_signature: Refuse the bundle, and the golden file, unless it is signed by this (PEM): a public key or
            certificates.

    Raises:
        BundleError: No bundle there, a file of it is missing, altered or not listed, or a signature is required and is
            not there or not valid.
        InputError: ``golden`` is no golden file, is of another model, or is given with ``checkpoint`` or ``sts``.
        RecipeError: The gates cannot be read.
        CheckpointError: The checkpoint cannot be loaded, or holds other weights than the bundle was made from.
    """
    device, trusted = _device(device), _path(require_signature)
    if golden is None:
        refuse_missing(REFERENCE_PACKAGES)
    elif checkpoint is not None or sts:
        raise InputError(
            f"`golden` is given with `{'checkpoint' if checkpoint is not None else 'sts'}`, which it does not need",
            next_step="omit one of them",
        )
    if isinstance(bundle, Bundle):
        if trusted is not None:
            bundle.verify_signature(trusted)
    else:
        bundle = Bundle.open(find_bundle(bundle).folder, require_signature=trusted, for_encoding=True)
    if golden is not None:
        from exporter.golden import judging, read_golden  # noqa: PLC0415 - imports safetensors

        answers = read_golden(Path(golden), require_signature=trusted)
        return judging.validate_with_golden(bundle, answers, device=device, minimum_gate=minimum_gate_of(gates))
    require_all(REFERENCE_PACKAGES)
    from exporter.validation import validate_bundle  # noqa: PLC0415 - imports torch

    return validate_bundle(
        bundle,
        checkpoint=_path(checkpoint),
        sts=[Path(file) for file in sts],
        device=device,
        minimum_gate=minimum_gate_of(gates),
    )


def assert_embeddings_match(
    encode: Callable[[list[str]], Any],
    golden: str | Path,
    *,
    precision: str = "fp32",
    gates: Gates | Recipe | str | Path | None = None,
    require_signature: str | Path | None = None,
) -> ParityReport:
    """Compare what a function answers with a golden file: the client of a server, for example. For tests.

    Args:
        encode: Takes a list of texts and returns (texts, dimension) numbers, with the model's default prompt. It is
            called with all probes at once, and with batches of 1 and of 8 texts.
        golden: The golden file.
        precision: What it computes in, ``"fp32"``, ``"fp16"``, ``"bf16"``, ``"int8"`` or ``"int8_dynamic"``: which gate
            counts.
        gates: Bounds that count where the golden file's are weaker: a recipe, or a YAML file with a ``gates`` key; by
            default korsbert's own.
        require_signature: Refuse the golden file unless it is signed by this (PEM): a public key or certificates.

    Returns:
        The report, which passed.

    Raises:
        AssertionError: A bound was missed; with the worst sentence and the likely cause.
        InputError: The golden file cannot be used, or the function returns something else than vectors.
    """
    from exporter.golden import judging, read_golden  # noqa: PLC0415 - imports safetensors

    chosen = _precision("precision", precision)
    answers = read_golden(Path(golden), require_signature=_path(require_signature))
    report = judging.judge_function(encode, answers, chosen, minimum_gate_of(gates))
    if not report.passed:
        raise AssertionError(report.failure())
    return report


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
        text=_path(text),
        id_column=id_column,
        k=k,
        rows=rows,
        sts=tuple(Path(file) for file in sts),
        minimum_gate=minimum_gate_of(gates),
        min_overlap=min_overlap,
        precisions=(_precision("precision_a", precision_a), _precision("precision_b", precision_b)),
        similarity=similarity,
        speed=speed,
        threads=threads,
        require_signature=_path(require_signature),
    )
    asked = server or ServerOptions()
    without_secrets = dataclasses.replace(asked, headers=(), key=None)
    openers = (opener_of(asked), opener_of(server_b or (without_secrets if is_url(str(a)) else asked)))
    return comparison.compare(str(a), str(b), options, openers, watcher or comparison.Watcher())


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


def push(
    bundle: str | Path | Bundle,
    repository: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    create_pr: bool = False,
    unvalidated: bool = False,
    gates: Gates | Recipe | str | Path | None = None,
    dry_run: bool = False,
) -> Pushed:
    """Push a bundle to the Hugging Face hub, in one commit, with its record of validation and its signature.

    The token is that of ``HF_TOKEN`` or of ``hf auth login``. A repository that is missing is created. Files of the
    bundle that is there are removed in the same commit.

    Args:
        bundle: A bundle or its folder.
        repository: Its id on the hub, ``owner/name``.
        private: Create the repository as a private one. One that is there and public is refused.
        revision: The branch, which is created where it is missing; by default ``main``.
        message: The commit message.
        create_pr: Open a pull request instead.
        unvalidated: Push a bundle whose engine no machine has validated.
        gates: The least that the bundle must have reached, as in ``validate``.
        dry_run: Only return the names and the sizes of the files. No request is made.

    Raises:
        BundleError: The bundle was altered, was not validated or misses the gate; or the repository holds something
            else than a bundle, or is public and ``private`` is asked for.
        InputError: ``repository`` is no hub id, or two arguments exclude each other.
        HubError: There is no token, or the hub cannot be reached or refuses. The message says what is there then.
    """
    from exporter.bundle.pushing import PushOptions  # noqa: PLC0415 - imports huggingface_hub
    from exporter.bundle.pushing import push as push_bundle  # noqa: PLC0415

    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(Path(bundle))
    options = PushOptions(private, revision, message, create_pr, unvalidated, dry_run)
    return push_bundle(opened, repository, options, minimum_gate_of(gates))


def record_validation(bundle: str | Path | Bundle, report: ParityReport) -> Bundle:
    """Record that a bundle, which was published without validation, has passed since: writes ``validation.json``.

    Args:
        bundle: A bundle or its folder.
        report: What ``validate`` returned for it.

    Returns:
        The bundle with the record.

    Raises:
        GateError: The report failed.
        BundleError: The bundle is not pending, or the report is about another bundle or device.
    """
    from exporter import publication  # noqa: PLC0415 - imports torch

    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(Path(bundle))
    return publication.record_validation(opened, report)


def _export_options(options: ExportOptions | None, named: dict[str, Any]) -> ExportOptions:
    if options is not None and named:
        raise InputError("options are given twice", next_step=f"put {', '.join(named)} into the ExportOptions")
    return options or ExportOptions.of(**named)


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


def _device(name: str | None) -> Device | None:
    if name is not None and name not in list(Device):
        raise InputError(f"`device` is {name!r}", next_step=f"use one of {', '.join(Device)}")
    return None if name is None else Device(name)


@overload
def _precision(name: str, value: str) -> Precision: ...
@overload
def _precision(name: str, value: str | None) -> Precision | None: ...
def _precision(name: str, value: str | None) -> Precision | None:
    if value is not None and value not in list(Precision):
        raise InputError(f"`{name}` is {value!r}", next_step=f"use one of {', '.join(Precision)}")
    return None if value is None else Precision(value)
