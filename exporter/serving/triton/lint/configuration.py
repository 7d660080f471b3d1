"""Rules about one ``config.pbtxt``: names, versions, instances, warm-up, parameters."""

from __future__ import annotations

from collections.abc import Iterator

from exporter.serving.triton.config import PROMPTS, parameter
from exporter.serving.triton.engines import MODEL_FILES
from exporter.serving.triton.facts import NAME_ALPHABET, is_name
from exporter.serving.triton.lint.model import A_FILE_NAME, Finding, Model, is_file_name


def check_name(model: Model) -> Iterator[Finding]:
    """Compare a model's name with its folder's, and with the alphabet of names."""
    if not is_name(model.folder.name):
        yield Finding(model.folder, "folder name", repr(model.folder.name), NAME_ALPHABET, "rename the folder")
    if model.config.name and model.config.name != model.folder.name:
        yield model.finding(
            "name",
            repr(model.config.name),
            repr(model.folder.name),
            "a model must have the name of its folder: change one of them",
        )


def check_backend(model: Model) -> Iterator[Finding]:
    """Check that a backend is named."""
    if not model.backend:
        yield model.finding("backend", "not set", f"one of {', '.join(MODEL_FILES)}", "name the backend")


def check_versions(model: Model) -> Iterator[Finding]:
    """Check that the versions of ``version_policy`` are there."""
    specific = model.config.version_policy.specific.versions
    for version in specific:
        if version not in model.versions:
            yield model.finding(
                "version_policy.specific", version, f"one of {list(model.versions)}", "name one that is there"
            )


def check_instances(model: Model) -> Iterator[Finding]:
    """Compare the kind of the instances with what the backend runs on."""
    for group in model.config.instance_group:
        if group.kind == group.Kind.KIND_GPU and model.backend == "openvino":
            yield model.finding("instance_group.kind", "KIND_GPU", "KIND_CPU", "openvino runs on the CPU")
        if group.kind == group.Kind.KIND_CPU and (group.gpus or model.backend == "tensorrt"):
            yield model.finding(
                "instance_group.kind", "KIND_CPU", "KIND_GPU", "the group names GPUs, or the engine needs one"
            )


def check_warm_up(model: Model) -> Iterator[Finding]:
    """Compare the warm-up samples with the inputs and with ``max_batch_size``."""
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
            if file and not is_file_name(file):
                yield model.finding(f"model_warmup[{sample.name}].input_data_file", repr(file), *A_FILE_NAME)
            elif file and not (model.folder / "warmup" / file).is_file():
                yield Finding(model.folder / "warmup" / file, "file", "missing", "the sample's data", "ship again")


def check_parameters(model: Model) -> Iterator[Finding]:
    """Check the parameters that our own model files read."""
    for file, names in (
        ("korsbert_tokens.py", ("prompt", PROMPTS, "max_text_bytes", "sequence_buckets")),
        ("bundle", ("threads", "padding_tokens", "batch_tokens")),
    ):
        if model.backend == "python" and (model.latest / file).exists():
            code = (model.latest / "model.py").read_text(encoding="utf-8", errors="replace")
            for name in names:
                if f'"{name}"' not in code:  # an older version of it
                    continue
                value = parameter(model.config, name)
                is_text = name in ("prompt", PROMPTS, "sequence_buckets")
                if value is None or not (is_text or value.isdecimal()):
                    yield model.finding(
                        f"parameters[{name}]",
                        "not set" if value is None else repr(value),
                        "a text" if is_text else "a number",
                        "model.py reads it",
                    )
