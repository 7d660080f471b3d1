"""A model repository: its folders, their versions, and how bundles come into it while a server watches.

::

    FOLDER/
      demo/            config.pbtxt  warmup/  1/  2/          the encoder
      demo_tokenizer/  config.pbtxt  1/  2/                   strings to token ids
      demo_text/       config.pbtxt  2/                       the ensemble of both: strings to vectors
      ...                                                     ensembles and tokenizers of queries and documents
      README.md  Dockerfile  compose.yaml  kubernetes.yaml  ...    plain files, which Triton passes over

A server that polls reads a model's folder at any moment. So each folder is made whole beside the repository, its older
versions linked into it with their times (Triton loads again whatever looks newer), and exchanged for the one that is
there in one system call. The ensembles, which name the versions they want, come last.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.bundle import MANIFEST, TOKENIZER, Bundle, atomic
from exporter.bundle.atomic import put_in_place
from exporter.bundle.signing import SIGNATURE
from exporter.errors import ExportError, InputError
from exporter.files import read_file
from exporter.runtime import tokens
from exporter.serving.triton import config as configs
from exporter.serving.triton import models
from exporter.serving.triton.facts import Options, Served, served
from exporter.serving.triton.memory import Peak, peak_of, write_peak

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

MARK = "Made by `korsbert ship`"
"""What a plain file holds that the next ship may replace; whoever edits one takes the line out."""
POLL_S = 1.0
"""Between the models that an ensemble is made of and the ensemble: a poll that missed the former has ended by then."""


@dataclass(frozen=True)
class Shipped:
    """What came of shipping a bundle.

    Attributes:
        name: Of the encoder.
        ensembles: Of the models that take strings; the first is for texts of any kind.
        backend: Triton's backend that runs the encoder.
        version: The number it has in the repository.
        size_bytes: Size of that version's files.
        remarks: What whoever ships it should know, one sentence each.
    """

    name: str
    ensembles: tuple[str, ...]
    backend: str
    version: int
    size_bytes: int
    remarks: tuple[str, ...] = ()

    @property
    def ensemble(self) -> str:
        """The model that takes texts of any kind."""
        return self.ensembles[0]


def ship(
    bundles: Sequence[Bundle],
    folder: Path,
    options: Options,
    *,
    name: str | None = None,
    version: int | None = None,
    measure: bool = False,
) -> list[Shipped]:
    """Put bundles into a model repository, each as one version of an encoder, its tokenizers and its ensembles.

    Args:
        bundles: Opened bundles, whose files were compared with their hashes.
        folder: The repository; made where there is none. Its parent is written to as well, for what is not whole yet.
        options: How they are served.
        name: Of the encoder, for a single bundle; by default its recipe's.
        version: The number they get: that of the latest version, which is replaced, or a larger one. By default one
            more than the latest.
        measure: Run each engine here, in a process of its own, to record the memory that it takes. A bundle whose
            figure lies in the repository is not run again. Where an engine cannot run here, a remark says so.

    Raises:
        BundleError: A bundle that no backend of Triton runs, or whose gate was never passed; a repository that cannot
            be written to.
        InputError: Two bundles of one name, a version below the latest, another dimension than the model there has, or
            a folder of that name that is no model.
    """
    if name is not None and len(bundles) > 1:
        raise InputError("`name` is given for several bundles", next_step="ship the bundles one at a time")
    wanted = [served(bundle, options, name) for bundle in bundles]
    names = [name for one in wanted for name in one.names]
    if twice := sorted({each for each in names if names.count(each) > 1}):
        what = "name" if [one.name for one in wanted].count(twice[0]) > 1 else "model"
        raise InputError(
            f"two bundles have the {what} {twice[0]}", next_step="ship the bundles one at a time, each with a `name`"
        )
    encoders = [configs.encoder_config(one, options) for one in wanted]  # wants tritonclient: before all is written
    with _staging(folder) as scratch:
        watched = any(folder.iterdir())
        numbers = [_number(one, folder, version) for one in wanted]  # all, before anything is placed
        remarks = [remarks_on(one, folder, number) for one, number in zip(wanted, numbers, strict=True)]
        peaks = [_peak(one, options, folder, measure=measure) for one in wanted]
        done = [
            replace(_ship(one, config, folder, options, number, scratch, peak), remarks=(*said, *unmeasured))
            for one, config, number, said, (peak, unmeasured) in zip(
                wanted, encoders, numbers, remarks, peaks, strict=True
            )
        ]
        if watched:
            time.sleep(POLL_S)
        for one, shipped in zip(wanted, done, strict=True):
            for text in one.texts:
                ensemble = configs.ensemble_config(one, options, shipped.version, text)
                with _model(folder / text.ensemble, ensemble, shipped.version, scratch):
                    pass  # an ensemble's version is an empty folder
    return done


def write_file(folder: Path, name: str, content: str) -> None:
    """Write a plain file into a repository, whole or not at all. A file without ``MARK`` is left alone.

    Raises:
        BundleError: It cannot be written.
    """
    path = folder / name
    with atomic.writing(path, "repository"):
        if not path.exists() or MARK.encode() in read_file(path):
            atomic.write_file(path, content.encode())


def model_folders(folder: Path) -> list[Path]:
    """Return the folders of a repository's models, by name."""
    return sorted(path for path in folder.iterdir() if path.is_dir())


def versions(model: Path) -> list[int]:
    """Return the versions of a model, in order: Triton takes folders that are numbers without a leading zero."""
    if not model.is_dir():
        return []
    numbers = (path.name for path in model.iterdir() if path.is_dir())
    return sorted(int(name) for name in numbers if name.isdecimal() and not name.startswith("0"))


def _peak(one: Served, options: Options, folder: Path, *, measure: bool) -> tuple[Peak | None, tuple[str, ...]]:
    """Return the memory of an encoder, and what there is to remark where it could not be measured."""
    if not measure:
        return None, ()
    shipped = [folder / one.name / str(number) for number in versions(folder / one.name)]
    try:
        return peak_of(one, options, shipped), ()
    except ExportError as error:
        return None, (f"the memory limit of {one.name} is computed, not measured: {error.message}",)


def _ship(
    one: Served,
    encoder: ModelConfig,
    folder: Path,
    options: Options,
    number: int,
    scratch: Path,
    peak: Peak | None,
) -> Shipped:
    """Place encoder and tokenizers, which nothing asks for before the ensembles do."""
    with _model(folder / one.name, encoder, number, scratch) as place:
        if one.backend == "python":
            _copy_model_file("encoder.py", place)
            (place / "bundle").mkdir()
            for file in one.bundle.names:
                (place / "bundle" / file).write_bytes(one.bundle.read(file))
        else:
            for source, target in one.files.items():
                (place / target).write_bytes(one.bundle.read(source))
            for file in (MANIFEST, SIGNATURE) if one.bundle.signed else (MANIFEST,):
                (place / file).write_bytes(one.bundle.read(file))
        if peak is not None:
            write_peak(place, peak)
        _write_warm_up(place.parent / "warmup", configs.warm_up_files(one))
        size_bytes = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    for text in {text.tokenizer: text for text in one.texts}.values():
        with _model(folder / text.tokenizer, configs.tokenizer_config(one, options, text), number, scratch) as place:
            _copy_model_file("tokenizer.py", place)
            shutil.copyfile(str(tokens.__file__), place / "korsbert_tokens.py")
            (place / TOKENIZER).write_bytes(one.bundle.read(TOKENIZER))
    return Shipped(one.name, tuple(text.ensemble for text in one.texts), one.backend, number, size_bytes)


def _number(one: Served, folder: Path, version: int | None) -> int:
    """Return the version to ship as, after a look at what is there.

    The ensemble's version counts: members of a higher one were left by a ship that was killed; nothing asks for them.
    """
    for name, part in one.names.items():
        _refuse_other_model(folder / name, part)
    text_model = folder / one.texts[0].ensemble
    latest = max(versions(text_model), default=0)
    if version is not None and version < latest:
        raise InputError(
            f"{folder}: {one.name} has version {latest}, and Triton would not serve an older one",
            next_step=f"`version={latest}` replaces the latest version",
        )
    if latest:
        for old in (f"{one.name}_query", f"{one.name}_document"):
            if old not in one.names and _is_ensemble_of(folder / old, one.name):
                raise InputError(
                    f"{folder / old} would go on with an old version, as the bundle has no prompt of its own for that",
                    next_step="give the bundle another `name`, or delete that folder",
                )
        stated = configs.vectors_of(configs.read_config(text_model / configs.FILE), text_model)
        dimension = one.bundle.manifest.encoder.dimension
        if stated != dimension:
            raise InputError(
                f"{text_model}: its vectors have {stated} dimensions and the bundle's have {dimension}: "
                "they cannot be versions of one model",
                next_step="give the bundle another `name`",
            )
    return version or latest + 1


def _refuse_other_model(model: Path, part: str) -> None:
    """Refuse to replace what is not the same part of an earlier version."""
    if not model.exists():
        return
    config = _config_of(model)
    if config is None:
        reason = "was not written by korsbert"
    elif (found := configs.part_of(config)) != part:
        reason = f"is the {found} of another bundle"
    else:
        return
    raise InputError(f"{model} {reason}, so it is not replaced", next_step="give the bundle another `name`")


def _is_ensemble_of(model: Path, encoder: str) -> bool:
    """Whether a folder is an ensemble of ours that ends in an encoder."""
    config = _config_of(model)
    steps = [] if config is None else config.ensemble_scheduling.step
    return bool(steps) and steps[-1].model_name == encoder


def _config_of(model: Path) -> ModelConfig | None:
    """Return the configuration of a model that came from a bundle, or None."""
    config = configs.read_config(model / configs.FILE) if (model / configs.FILE).is_file() else None
    return config if config is not None and configs.parameter(config, "korsbert_bundle") is not None else None


def remarks_on(one: Served, folder: Path, version: int) -> tuple[str, ...]:
    """Return what is right and may still surprise: another engine than the versions before, answers that vary."""
    engine = configs.engine_name(one.bundle.manifest)
    said = []
    if (before := folder / one.name / configs.FILE).is_file():
        served_before = configs.parameter(configs.read_config(before), "korsbert_engine")
        if served_before not in (None, engine):
            said.append(
                f"version {version} of {one.name} is {engine}; the version before is {served_before}. Requests go to "
                "the new version. To serve both, ship one under another name"
            )
    if one.bundle.manifest.engine.precision.scales_from_batch:
        said.append(
            f"{one.name} is int8_dynamic, which computes its scales for each batch: the vector of a text depends "
            "slightly on the other texts in the batch. With int8 it does not"
        )
    return tuple(said)


@contextmanager
def _model(target: Path, config: ModelConfig, version: int, scratch: Path) -> Iterator[Path]:
    """Yield the empty folder of a version to fill, then put the model in place with its older versions."""
    staged = Path(tempfile.mkdtemp(dir=scratch)) / target.name
    if target.is_dir():
        shutil.copytree(target, staged, copy_function=os.link)
        for newer in versions(staged):  # never asked for: see _number
            if newer > version:
                shutil.rmtree(staged / str(newer))
        shutil.rmtree(staged / str(version), ignore_errors=True)
        (staged / configs.FILE).unlink()
    place = staged / str(version)
    place.mkdir(parents=True)
    yield place
    (staged / configs.FILE).write_text(configs.to_text(config), encoding="utf-8")
    put_in_place(staged, target)


def _write_warm_up(folder: Path, wanted: dict[str, bytes]) -> None:
    """Write what is not there yet: a file that looks newer would have Triton load every version again."""
    folder.mkdir(exist_ok=True)
    for name, content in wanted.items():
        if not (folder / name).exists():
            (folder / name).write_bytes(content)


def _copy_model_file(name: str, place: Path) -> None:
    """Copy one of our models, and bar Python from writing bytecode beside it.

    A polling server takes a ``__pycache__`` that appears for a change of the model and loads it all again. The python
    backend's interpreter is isolated, so PYTHONDONTWRITEBYTECODE does not reach it; a file of that name does.
    """
    with as_file(files(models) / name) as source:
        shutil.copyfile(source, place / "model.py")
    (place / "__pycache__").touch()


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """Yield a folder beside the repository, on its disk. Meanwhile no other process can ship to the repository."""
    with atomic.writing(folder, "repository"), atomic.without_empty_folders(folder.absolute()):
        folder.mkdir(parents=True, exist_ok=True)
        with atomic.staging(folder.absolute(), force=True, command="ship", option="repository") as scratch:
            if folder.stat().st_dev != scratch.stat().st_dev:
                raise InputError(
                    f"{folder} is a mount point: partial files would have to be written inside it, where servers read",
                    next_step=f"write to {folder / 'models'} instead",
                )
            yield scratch
