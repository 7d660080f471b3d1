"""check(): what is wrong with a model repository, held against the engines in it, before a server is asked.

Triton finds some of these mistakes when it loads a model, some when the first request comes, and some never: a model
whose batching is void answers every request, slowly. Every finding names the file, the field, what it says, what it
should say and how to mend it. A rule is a function over one model, and ``RULES`` is their list.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from exporter.bundle import MANIFEST, TOKENIZER, Bundle, FileFacts, Manifest
from exporter.bundle.minimum_gate import DEFAULT_MINIMUM_GATE, MinimumGate
from exporter.errors import BundleError, ExportError, InputError
from exporter.serving.triton.config import FILE, parameter, read_config
from exporter.serving.triton.engines import MODEL_FILES, PLATFORMS, EngineFacts, Tensor, read_engine
from exporter.serving.triton.facts import NATIVE
from exporter.serving.triton.repository import model_folders, versions

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

NATIVE_FILES = dict(NATIVE.values())
_WANTS_EQUAL_SHAPES = ("onnxruntime", "tensorrt", "openvino")
_EXPORT_AGAIN = "export the bundle again, or give the gates to judge by (gates, or recipe)"


@dataclass(frozen=True)
class Finding:
    """One mistake.

    Attributes:
        file: Where it is.
        field: What of it, as ``config.pbtxt`` calls it.
        found: What it says.
        wanted: What it should say.
        mend: What to do.
    """

    file: Path
    field: str
    found: str
    wanted: str
    mend: str

    def __str__(self) -> str:
        return f"{self.file}: {self.field} is {self.found}, wanted {self.wanted}\n  mend: {self.mend}"


@dataclass(frozen=True)
class Model:
    """A model of a repository, read.

    Attributes:
        folder: Where it is.
        config: Its ``config.pbtxt``.
        backend: The backend of Triton that runs it, ``"ensemble"`` for an ensemble.
        versions: The numbers of its versions.
        engine: What the latest version's engine has, where that can be known.
        others: Every model of the repository that could be read, by name.
        minimum_gate: What the gate of every bundle must reach.
        require_signature: What every bundle must be signed by, where that is asked for.
    """

    folder: Path
    config: ModelConfig
    backend: str
    versions: tuple[int, ...]
    engine: EngineFacts | None
    others: dict[str, Model]
    minimum_gate: MinimumGate
    require_signature: Path | None

    @property
    def path(self) -> Path:
        """Its ``config.pbtxt``."""
        return self.folder / FILE

    @property
    def latest(self) -> Path:
        """The folder of the latest version."""
        return self.folder / str(self.versions[-1])

    @property
    def manifest(self) -> Manifest | None:
        """Of the bundle it serves, where it came from one."""
        return self.engine.manifest if self.engine is not None else None

    def finding(self, field: str, found: object, wanted: object, mend: str) -> Finding:
        """Return a finding in ``config.pbtxt``."""
        return Finding(self.path, field, str(found), str(wanted), mend)


def check(
    folder: Path, minimum_gate: MinimumGate = DEFAULT_MINIMUM_GATE, require_signature: Path | None = None
) -> list[Finding]:
    """Return what is wrong with a model repository, ours or anybody's; nothing where it is sound.

    Args:
        folder: The repository.
        minimum_gate: What the gate and the recorded statistics of every bundle in it must reach.
        require_signature: PEM file of a public key or certificates: every bundle in it must be signed by that.

    Raises:
        InputError: There is no such folder, or no model in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no folder")
    if not model_folders(folder):
        raise InputError(f"{folder}: there is no model in it", next_step="ship a bundle to it first")
    findings: list[Finding] = []
    models: dict[str, Model] = {}
    for path in model_folders(folder):
        model = _read(path, models, findings, minimum_gate, require_signature)
        if model is not None:
            models[path.name] = model
    for model in models.values():
        for rule in RULES:
            findings += rule(model)
    return findings


def _read(
    folder: Path,
    others: dict[str, Model],
    findings: list[Finding],
    minimum_gate: MinimumGate,
    require_signature: Path | None,
) -> Model | None:
    """Read a model; what keeps it from being read at all becomes a finding."""
    path = folder / FILE
    if not path.is_file():
        findings.append(Finding(path, "file", "missing", f"a {FILE}", "write one, or move what is no model away"))
        return None
    try:
        config = read_config(path)
    except InputError as error:
        findings.append(
            Finding(path, "file", error.message.removeprefix(f"{path}: "), "a ModelConfig", "mend that line")
        )
        return None
    backend = config.backend or PLATFORMS.get(config.platform, config.platform)
    model = Model(folder, config, backend, tuple(versions(folder)), None, others, minimum_gate, require_signature)
    if not model.versions:
        findings.append(
            Finding(folder, "version folders", "none", "a folder called 1", "move the model's files into FOLDER/1/")
        )
        return None
    if backend == "ensemble":
        return model
    file = config.default_model_filename or MODEL_FILES.get(backend, "")
    if file and not (model.latest / file).exists():
        held = ", ".join(sorted(entry.name for entry in model.latest.iterdir())) or "nothing"
        findings.append(Finding(model.latest, "model file", held, file, f"put {file} there: {backend} opens no other"))
        return None
    try:
        return replace(model, engine=read_engine(backend, model.latest, file))
    except ExportError as error:
        mend = error.next_step or "ship it again"
        findings.append(Finding(model.latest, "engine", error.message, f"a {backend} model that can be read", mend))
        return model  # its configuration can still be held against the others


def _name(model: Model) -> Iterator[Finding]:
    if model.config.name and model.config.name != model.folder.name:
        yield model.finding(
            "name", repr(model.config.name), repr(model.folder.name), "a model is called like its folder: change one"
        )


def _backend(model: Model) -> Iterator[Finding]:
    if not model.backend:
        yield model.finding("backend", "not set", f"one of {', '.join(MODEL_FILES)}", "name the backend")


def _tensors(model: Model) -> Iterator[Finding]:
    """Hold names, types, ranks and extents against the engine."""
    if model.engine is None or not model.engine.outputs:
        return
    for kind, stated, real in (
        ("input", model.config.input, model.engine.inputs),
        ("output", model.config.output, model.engine.outputs),
    ):
        names = {tensor.name for tensor in stated}
        for missing in sorted(real.keys() - names) if kind == "input" else ():
            yield model.finding(kind, f"without {missing}", f"with {missing}", f"add {missing}: the engine wants it")
        for tensor in stated:
            if tensor.name not in real:
                yield model.finding(
                    f"{kind}.name",
                    repr(tensor.name),
                    " or ".join(map(repr, sorted(real))),
                    "name it as the engine does",
                )
            else:
                yield from _tensor(model, kind, tensor, real[tensor.name])


def _tensor(model: Model, kind: str, tensor: Any, real: Tensor) -> Iterator[Finding]:
    field = f"{kind}[{tensor.name}]"
    data_type = _type_name(tensor)
    if data_type != real.data_type:
        yield model.finding(f"{field}.data_type", data_type, real.data_type, "state the engine's type")
    dims, batched = list(tensor.reshape.shape or tensor.dims), model.config.max_batch_size > 0
    expected = list(real.shape[1:] if batched else real.shape)
    if batched and len(dims) == len(expected) + 1:
        yield model.finding(
            f"{field}.dims", dims, expected, "max_batch_size above 0 puts the batch in front: dims must not name it too"
        )
    elif len(dims) != len(expected):
        yield model.finding(f"{field}.dims", dims, expected, f"the engine's rank is {len(real.shape)}, batch included")
    elif any(-1 not in (stated, has) and stated != has for stated, has in zip(dims, expected, strict=True)):
        yield model.finding(f"{field}.dims", dims, expected, "state the engine's extents")
    elif batched and real.shape[0] not in (-1, model.config.max_batch_size):
        yield model.finding(
            "max_batch_size", model.config.max_batch_size, real.shape[0], "the engine was made for that batch alone"
        )
    elif kind == "input" and any(has == -1 != stated for stated, has in zip(dims, expected, strict=True)):
        yield model.finding(
            f"{field}.dims", dims, expected, "the engine takes any extent: a fixed one refuses every other sentence"
        )


def _batch(model: Model) -> Iterator[Finding]:
    """Hold max_batch_size against the profile, and look whether batches can come about at all."""
    config, manifest = model.config, model.manifest
    if model.backend == "ensemble":
        return
    takes_batches = model.engine is None or all(tensor.shape[:1] == (-1,) for tensor in model.engine.inputs.values())
    if manifest is not None and config.max_batch_size > manifest.recipe.shapes.batch.max:
        yield model.finding(
            "max_batch_size", config.max_batch_size, f"<= {manifest.recipe.shapes.batch.max}", "the profile ends there"
        )
    if not takes_batches:
        return
    if config.max_batch_size == 0 and model.engine is not None:
        yield model.finding(
            "max_batch_size", 0, "1 or more", "the engine has a batch axis: state it here, and drop it from every dims"
        )
    elif (
        config.max_batch_size > 1
        and not config.HasField("dynamic_batching")
        and not config.HasField("sequence_batching")
    ):
        yield model.finding("dynamic_batching", "absent", "dynamic_batching { }", "without it every request runs alone")
    elif config.max_batch_size == 1 and config.HasField("dynamic_batching"):
        yield model.finding("max_batch_size", 1, "above 1", "dynamic batching is void: no batch has room for two")


def _preferred(model: Model) -> Iterator[Finding]:
    config = model.config
    for size in config.dynamic_batching.preferred_batch_size:
        if size > config.max_batch_size:
            yield model.finding(
                "dynamic_batching.preferred_batch_size",
                size,
                f"<= max_batch_size, {config.max_batch_size}",
                "no batch gets that large",
            )


def _ragged(model: Model) -> Iterator[Finding]:
    """Look whether requests of different lengths can share a batch."""
    config = model.config
    if model.backend not in _WANTS_EQUAL_SHAPES or not config.HasField("dynamic_batching"):
        return
    ragged = [tensor.name for tensor in config.input if tensor.allow_ragged_batch]
    if ragged and not config.batch_input:
        yield model.finding(
            f"input[{ragged[0]}].allow_ragged_batch",
            "true",
            "false",
            f"{model.backend} stacks requests into one array: unequal rows cannot be; pad them to buckets instead",
        )
    for tokenizer, ensemble in _tokenizers_of(model):
        if not ragged and not parameter(tokenizer.config, "sequence_buckets"):
            yield tokenizer.finding(
                "parameters[sequence_buckets]",
                "not set",
                "the widths to pad to",
                f"{model.config.name} batches equal shapes only, and in {ensemble.config.name} hardly two are equal: "
                "its dynamic batching is void",
            )


def _sequence(model: Model) -> Iterator[Finding]:
    """Hold what the tokenizer lets through against what the encoder takes."""
    if model.manifest is None:
        return
    limit = model.manifest.encoder.max_seq_length
    profile = model.manifest.recipe.shapes.sequence
    longest = profile.max if profile is not None else limit
    for tokenizer, _ in _tokenizers_of(model):
        path = tokenizer.latest / TOKENIZER
        if not path.is_file():
            continue
        truncation = Tokenizer.from_file(str(path)).truncation
        if truncation is None or truncation["max_length"] > limit:
            yield Finding(
                path,
                "truncation.max_length",
                str(truncation["max_length"]) if truncation else "not set",
                f"<= {limit}",
                "the encoder refuses longer rows: ship the bundle's own tokenizer",
            )
        found, shipped = FileFacts.of_file(path).sha256, model.manifest.files[TOKENIZER].sha256
        if found != shipped:
            yield Finding(
                path,
                "content",
                f"sha256 {found[:12]}",
                f"sha256 {shipped[:12]} of {model.config.name}'s bundle",
                "another tokenizer gives other ids to the same words: ship both again from one bundle",
            )
        prompt = parameter(tokenizer.config, "prompt") or ""
        if prompt != model.manifest.encoder.prompt:
            yield tokenizer.finding(
                "parameters[prompt]",
                repr(prompt),
                repr(model.manifest.encoder.prompt),
                "the encoder was proven with it",
            )
        buckets = [width for width in (parameter(tokenizer.config, "sequence_buckets") or "").split(",") if width]
        if buckets and (not all(map(str.isdecimal, buckets)) or max(map(int, buckets)) > longest):
            yield tokenizer.finding(
                "parameters[sequence_buckets]", ",".join(buckets), f"numbers up to {longest}", "the profile ends there"
            )


def _warm_up(model: Model) -> Iterator[Finding]:
    for sample in model.config.model_warmup:
        if sample.batch_size > max(model.config.max_batch_size, 1):
            yield model.finding(
                f"model_warmup[{sample.name}].batch_size",
                sample.batch_size,
                f"<= max_batch_size, {model.config.max_batch_size}",
                "lower it: Triton refuses the sample, and with it the model",
            )
        for name, tensor in sample.inputs.items():
            if name not in {stated.name for stated in model.config.input}:
                yield model.finding(
                    f"model_warmup[{sample.name}].inputs",
                    repr(name),
                    " or ".join(repr(stated.name) for stated in model.config.input),
                    "name an input",
                )
            file = tensor.input_data_file
            if file and not (model.folder / "warmup" / file).is_file():
                yield Finding(model.folder / "warmup" / file, "file", "missing", "the sample's data", "ship again")


def _instances(model: Model) -> Iterator[Finding]:
    for group in model.config.instance_group:
        if group.kind == group.Kind.KIND_GPU and model.backend == "openvino":
            yield model.finding("instance_group.kind", "KIND_GPU", "KIND_CPU", "openvino runs on the CPU")
        if group.kind == group.Kind.KIND_CPU and (group.gpus or model.backend == "tensorrt"):
            yield model.finding("instance_group.kind", "KIND_CPU", "KIND_GPU", "it names GPUs, or its engine needs one")


def _ensemble(model: Model) -> Iterator[Finding]:
    """Hold an ensemble's steps against the models they name."""
    known: dict[str, tuple[str, list[int]]] = {
        tensor.name: (_type_name(tensor), list(tensor.dims)) for tensor in model.config.input
    }
    for number, step in enumerate(model.config.ensemble_scheduling.step):
        field = f"ensemble_scheduling.step[{number}]"
        member = model.others.get(step.model_name)
        if member is None and (model.folder.with_name(step.model_name) / FILE).is_file():
            return  # that one has its own finding, and what follows it in the ensemble cannot be judged
        if member is None:
            yield model.finding(
                f"{field}.model_name",
                repr(step.model_name),
                "a sound model of this repository",
                "ship it, or name another",
            )
            continue
        yield from _step_version(model, field, step, member)
        if member.config.max_batch_size < model.config.max_batch_size:
            yield model.finding(
                "max_batch_size",
                model.config.max_batch_size,
                f"<= {member.config.max_batch_size}, {step.model_name}'s",
                "a full request would be refused by that step",
            )
        inputs = {tensor.name: tensor for tensor in member.config.input}
        outputs = {tensor.name: tensor for tensor in member.config.output}
        for name, source in step.input_map.items():
            yield from _edge(model, f"{field}.input_map[{name}]", inputs.get(name), source, known)
        for name, target in step.output_map.items():
            if name not in outputs:
                yield model.finding(
                    f"{field}.output_map", repr(name), " or ".join(map(repr, outputs)), "name an output"
                )
            else:
                known[target] = (_type_name(outputs[name]), list(outputs[name].dims))
    for tensor in model.config.output if model.backend == "ensemble" else ():
        yield from _edge(model, f"output[{tensor.name}]", tensor, tensor.name, known)


def _step_version(model: Model, field: str, step: Any, member: Model) -> Iterator[Finding]:
    if step.model_version != -1 and step.model_version not in _served_versions(member):
        yield model.finding(
            f"{field}.model_version",
            step.model_version,
            " or ".join(map(str, _served_versions(member))) or "a version that is served",
            "name one that is there and kept by version_policy, or -1",
        )


def _edge(
    model: Model, field: str, tensor: Any, source: str, known: dict[str, tuple[str, list[int]]]
) -> Iterator[Finding]:
    """Compare what flows along an edge of an ensemble with what takes it."""
    if tensor is None:
        yield model.finding(field, "no input of that model", "an input", "name an input of the step's model")
    elif source not in known:
        yield model.finding(field, repr(source), " or ".join(map(repr, sorted(known))), "no step before gives that")
    elif known[source][0] != _type_name(tensor):
        yield model.finding(field, known[source][0], _type_name(tensor), "both ends must have one type")
    elif not _meet(known[source][1], list(tensor.dims)):
        yield model.finding(field, known[source][1], list(tensor.dims), "both ends must have one shape")


def _policy(model: Model) -> Iterator[Finding]:
    specific = model.config.version_policy.specific.versions
    for version in specific:
        if version not in model.versions:
            yield model.finding(
                "version_policy.specific", version, f"one of {list(model.versions)}", "name one that is there"
            )


def _plan(model: Model) -> Iterator[Finding]:
    """Hold a plan against the manifest it came with, and against this machine's GPUs where there are any."""
    engine, manifest = model.engine, model.manifest
    if engine is None or engine.tensorrt is None or manifest is None:
        return
    facts = manifest.engine.facts
    path = model.latest / (model.config.default_model_filename or MODEL_FILES["tensorrt"])
    stated = facts.version or engine.tensorrt
    if stated.split(".")[:3] != engine.tensorrt.split(".")[:3]:
        yield Finding(
            path, "TensorRT version", engine.tensorrt, f"{stated}, of its manifest", "ship the bundle again, unaltered"
        )
    built_for, here = facts.compute_capability, _compute_capabilities()  # None: for any GPU
    if built_for is not None and here and built_for not in here:
        yield Finding(
            path,
            "compute capability",
            f"built for {built_for}",
            f"{' or '.join(sorted(here))}, of this machine",
            "export it on the GPU that serves it, or as a hardware-compatible engine",
        )


def _parameters(model: Model) -> Iterator[Finding]:
    """Look for what our own model files read."""
    for file, names in (
        ("korsbert_tokens.py", ("prompt", "max_text_bytes", "sequence_buckets")),
        ("bundle", ("threads", "padding_tokens")),
    ):
        if model.backend == "python" and (model.latest / file).exists():
            for name in names:
                value = parameter(model.config, name)
                whole = value is not None and (name in ("prompt", "sequence_buckets") or value.isdecimal())
                if not whole:
                    yield model.finding(
                        f"parameters[{name}]",
                        "not set" if value is None else repr(value),
                        "a number",
                        "model.py reads it",
                    )


def _altered(model: Model) -> Iterator[Finding]:
    """Hold every version that is served against the hashes of the bundle it came from."""
    for number in _served_versions(model):
        version = model.folder / str(number)
        try:
            if (version / "bundle").is_dir():
                bundle = Bundle.open(version / "bundle")
                yield from _below_the_minimum(model, bundle)
                yield from _unsigned(model, bundle)
            if not (version / MANIFEST).is_file() or model.backend not in NATIVE_FILES:
                continue
            bundle = Bundle.open_manifest(version)
            manifest = bundle.manifest
            yield from _weaker_gate(model, bundle)
            yield from _unsigned(model, bundle)
        except ExportError as error:
            if number != model.versions[-1]:  # that of the latest was found when its engine was read
                yield Finding(version, "bundle", error.message, "what was shipped", "ship it again")
            continue
        for ours, theirs in zip(manifest.engine.files, NATIVE_FILES[model.backend], strict=False):
            path, shipped = version / theirs, manifest.files[ours].sha256
            if path.is_file() and (found := FileFacts.of_file(path).sha256) != shipped:
                yield Finding(path, "sha256", found, shipped, "altered since it was shipped: ship it again")


def _below_the_minimum(model: Model, bundle: Bundle) -> Iterator[Finding]:
    """Compare a bundle's gate and its recorded statistics with the minimum."""
    for objection in model.minimum_gate.objections(bundle):
        yield Finding(bundle.folder, "gate", objection, f"{model.minimum_gate.source} or a stricter one", _EXPORT_AGAIN)


def _weaker_gate(model: Model, bundle: Bundle) -> Iterator[Finding]:
    """Compare a bundle's gate with the minimum, where its manifest and its engine alone came along."""
    if (warning := model.minimum_gate.warning(bundle.manifest)) is not None:
        yield Finding(bundle.folder, "gate", warning, f"{model.minimum_gate.source} or a stricter one", _EXPORT_AGAIN)


def _unsigned(model: Model, bundle: Bundle) -> Iterator[Finding]:
    """Verify the signature that is asked for."""
    if model.require_signature is None:
        return
    try:
        bundle.verify_signature(model.require_signature)
    except BundleError as error:
        wanted = f"signed by {model.require_signature}"
        yield Finding(bundle.folder, "signature", error.message, wanted, error.next_step or "ship it again")


RULES = (
    _altered,
    _name,
    _backend,
    _tensors,
    _batch,
    _preferred,
    _ragged,
    _sequence,
    _warm_up,
    _instances,
    _ensemble,
    _policy,
    _plan,
    _parameters,
)


def _tokenizers_of(model: Model) -> Iterator[tuple[Model, Model]]:
    """Yield the tokenizers that feed an encoder, each with the ensemble that puts them together."""
    for ensemble in model.others.values():
        steps = [step.model_name for step in ensemble.config.ensemble_scheduling.step]
        if model.folder.name in steps:
            for name in steps[: steps.index(model.folder.name)]:
                if name in model.others and (model.others[name].latest / TOKENIZER).is_file():
                    yield model.others[name], ensemble


def _served_versions(model: Model) -> list[int]:
    policy = model.config.version_policy
    match policy.WhichOneof("policy_choice"):
        case "all":
            return list(model.versions)
        case "specific":
            return sorted(set(policy.specific.versions) & set(model.versions))
        case _:
            return list(model.versions[-(policy.latest.num_versions or 1) :])


def _type_name(tensor: Any) -> str:
    name: str = tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[tensor.data_type].name
    return name


def _meet(first: Sequence[int], second: Sequence[int]) -> bool:
    return len(first) == len(second) and all(a == b or -1 in (a, b) for a, b in zip(first, second, strict=True))


def _compute_capabilities() -> set[str]:
    """Return those of this machine's GPUs, ``"9.0"`` for example; nothing where there are none."""
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return set()
    return set(done.stdout.split()) if done.returncode == 0 else set()
