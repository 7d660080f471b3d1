"""What the rules look at: a model repository, read once, and the findings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.bundle import TOKENIZER, Manifest
from exporter.bundle.minimum_gate import MinimumGate
from exporter.errors import ExportError, InputError
from exporter.serving.triton.config import FILE, TOKENIZER_HASH, read_config
from exporter.serving.triton.engines import MODEL_FILES, PLATFORMS, EngineFacts, read_engine
from exporter.serving.triton.repository import model_folders, versions

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig


A_FILE_NAME = ("the name of a file", "a path can lead out of the folder: name a file in it")
"""What a field wants that names a file of the model, and the fix."""


@dataclass(frozen=True)
class Finding:
    """One mistake.

    Attributes:
        file: The file or folder that has it.
        field: The field of it, as ``config.pbtxt`` calls it.
        found: The value that was found.
        wanted: The value that it should have.
        fix: What to do.
    """

    file: Path
    field: str
    found: str
    wanted: str
    fix: str

    def __str__(self) -> str:
        return f"{self.file}: {self.field} is {self.found}, wanted {self.wanted}\n  fix: {self.fix}"


@dataclass(frozen=True)
class Model:
    """A model of a repository.

    Attributes:
        folder: Its folder.
        config: Its ``config.pbtxt``.
        backend: The backend of Triton that runs it, ``"ensemble"`` for an ensemble.
        versions: The numbers of its versions.
        engine: What the latest version's engine has, if that can be known.
    """

    folder: Path
    config: ModelConfig
    backend: str
    versions: tuple[int, ...]
    engine: EngineFacts | None = None

    @property
    def path(self) -> Path:
        """Its ``config.pbtxt``."""
        return self.folder / FILE

    @property
    def latest(self) -> Path:
        """The folder of the latest version."""
        return self.folder / str(self.versions[-1])

    @property
    def served_versions(self) -> list[int]:
        """The versions that its ``version_policy`` has Triton serve."""
        policy = self.config.version_policy
        match policy.WhichOneof("policy_choice"):
            case "all":
                return list(self.versions)
            case "specific":
                return sorted(set(policy.specific.versions) & set(self.versions))
            case _:
                return list(self.versions[-(policy.latest.num_versions or 1) :])

    @property
    def is_tokenizer(self) -> bool:
        """Whether it turns strings into token ids: it came from a bundle for that, or has a tokenizer's file."""
        return TOKENIZER_HASH in self.config.parameters or (self.latest / TOKENIZER).is_file()

    @property
    def manifest(self) -> Manifest | None:
        """The manifest of the bundle that it serves, if it came from one."""
        return self.engine.manifest if self.engine is not None else None

    def finding(self, field: str, found: object, wanted: object, fix: str) -> Finding:
        """Return a finding in ``config.pbtxt``."""
        return Finding(self.path, field, str(found), str(wanted), fix)


@dataclass(frozen=True)
class Repository:
    """The models of a repository, and what their bundles must be.

    Attributes:
        models: Every model that could be read, by name.
        minimum_gate: The least strict gate that is accepted of a bundle.
        require_signature: The key or certificates that every bundle must be signed by, if that is required.
    """

    models: Mapping[str, Model]
    minimum_gate: MinimumGate
    require_signature: Path | None

    def tokenizers_of(self, encoder: Model) -> Iterator[tuple[Model, Model]]:
        """Yield the tokenizers that feed an encoder, each with the ensemble that joins the two."""
        for ensemble in self.models.values():
            steps = [step.model_name for step in ensemble.config.ensemble_scheduling.step]
            if encoder.folder.name in steps:
                for name in steps[: steps.index(encoder.folder.name)]:
                    if name in self.models and self.models[name].is_tokenizer:
                        yield self.models[name], ensemble


def read_models(folder: Path) -> tuple[dict[str, Model], list[Finding]]:
    """Read the models of a repository; returns them by name, and a finding for each one that cannot be read."""
    models: dict[str, Model] = {}
    findings: list[Finding] = []
    for path in model_folders(folder):
        model = _read(path)
        if isinstance(model, Finding):
            findings.append(model)
            continue
        try:
            models[path.name] = replace(model, engine=_read_engine(model))
        except ExportError as error:
            fix = error.next_step or "ship it again"
            wanted = f"a {model.backend} model that can be read"
            findings.append(Finding(model.latest, "engine", error.message, wanted, fix))
            models[path.name] = model  # its configuration can still be compared with the others
    return models, findings


def is_file_name(name: str) -> bool:
    """Return whether this is the name of a file, and no path, which may lead elsewhere."""
    return Path(name).name == name != ".."


def type_name(tensor: Any) -> str:
    """Return the data type of an input or output of a configuration, ``"TYPE_FP32"`` for example."""
    name: str = tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[tensor.data_type].name
    return name


def _read(folder: Path) -> Model | Finding:
    """Read the configuration and the versions of a model, or find why that is not possible."""
    path = folder / FILE
    if not path.is_file():
        return Finding(path, "file", "missing", f"a {FILE}", "write one, or move the folder away if it is not a model")
    try:
        config = read_config(path)
    except InputError as error:
        return Finding(path, "file", error.message.removeprefix(f"{path}: "), "a ModelConfig", "correct that line")
    backend = config.backend or PLATFORMS.get(config.platform, config.platform)
    model = Model(folder, config, backend, tuple(versions(folder)))
    if not model.versions:
        return Finding(folder, "version folders", "none", "a folder called 1", "move the model's files into FOLDER/1/")
    file = _engine_file(model)
    if file and not is_file_name(file):
        return model.finding("default_model_filename", repr(file), *A_FILE_NAME)
    if file and not (model.latest / file).is_file():
        there = ", ".join(sorted(entry.name for entry in model.latest.iterdir())) or "nothing"
        return Finding(model.latest, "model file", there, file, f"put {file} there: {backend} opens no other file")
    return model


def _read_engine(model: Model) -> EngineFacts | None:
    """Read what the engine of the latest version has. Raises what ``read_engine`` does."""
    return None if model.backend == "ensemble" else read_engine(model.backend, model.latest, _engine_file(model))


def _engine_file(model: Model) -> str:
    """Return the name of the file that the backend opens; empty for an ensemble and for other backends."""
    if model.backend == "ensemble":
        return ""
    return str(model.config.default_model_filename or MODEL_FILES.get(model.backend, ""))
