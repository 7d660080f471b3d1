"""``config.pbtxt`` of the models of a bundle, through Triton's own protobuf.

The fields are those of ``model_config.proto`` (triton-inference-server/common), read and written with
``google.protobuf.text_format``, so that a misspelt field cannot be written and whatever Triton reads can be read.

``dims`` never name the batch: ``max_batch_size`` above 0 puts it in front. Versions: a model keeps its latest two, and
an ensemble only its latest, because all versions of an ensemble share one ``config.pbtxt`` and with it the steps: an
older one would answer with the newer vectors. The steps name the versions they want, so that a tokenizer and an encoder
of two different exports never meet while a server changes from one to the next.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.dependencies import require
from exporter.errors import InputError, first_line
from exporter.files import MiB, read_text
from exporter.runtime.contract import INPUTS, OUTPUT
from exporter.runtime.token_encoder import TOKENS_PER_ROW
from exporter.serving.triton.facts import TEXT, Options, Served, TextModel
from exporter.targets import Padding

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    from exporter.bundle import Manifest

FILE = "config.pbtxt"
KEPT_VERSIONS = 2
QUEUE_DELAY_US = 500
PROMPTS = "prompts"
"""Parameter of a tokenizer: the prompts that a request may name, a JSON object."""
TOKENIZER_HASH = "korsbert_tokenizer"
"""Parameter of a tokenizer: the hash of its file."""
PADDING = "korsbert_padding"
"""Parameter of an encoder that relies on padding on the right."""
LEAST_ONNXRUNTIME = "korsbert_least_onnxruntime"
"""Parameter of an encoder that Triton's onnxruntime backend runs: the oldest ONNX Runtime that is right for it."""
ENGINE_PACKAGE = "korsbert_engine_package"
"""Parameter of an encoder: the Python package of its engine's library at the version that passed the gate."""
ONES = "ones_{}"
"""Warm-up data: a mask of so many tokens."""


def encoder_config(served: Served, options: Options) -> ModelConfig:
    """Return the configuration of ``<name>``: token ids and mask to vectors."""
    config = _model(served, served.name, served.backend)
    for name in INPUTS:
        # The python encoder takes rows of any width out of their padding; the other backends want equal shapes.
        config.input.add(name=name, data_type="TYPE_INT64", dims=[-1], allow_ragged_batch=served.backend == "python")
    config.output.add(name=OUTPUT, data_type="TYPE_FP32", dims=[served.bundle.manifest.encoder.dimension])
    _keep_versions(config)
    _batch(config, served, options)
    group = config.instance_group.add(count=options.instances, kind="KIND_GPU" if served.on_gpu else "KIND_CPU")
    group.gpus.extend(options.gpus)
    if served.backend == "tensorrt":  # all of the plan's profiles; without their names Triton would use the first alone
        group.profile.extend(str(number) for number in range(len(served.bundle.manifest.engine.facts.profiles)))
    _set(config, _engine_parameters(served))
    if served.bundle.manifest.engine.facts.right_padded:
        _set(config, {PADDING: Padding.RIGHT})
    if served.engine_package is not None:
        _set(config, {ENGINE_PACKAGE: served.engine_package})
    if served.least_onnxruntime is not None:
        _set(config, {LEAST_ONNXRUNTIME: served.least_onnxruntime})
    _optimize(config, served, options)
    # A cache looks at tensors alone, and a request may name another prompt: then the ensemble must not be cached.
    if options.response_cache and not served.one_prompt:
        config.response_cache.enable = True
    for rows, tokens in _corners(served):
        _warm_up(config, rows, tokens)
    return config


def tokenizer_config(served: Served, options: Options, text: TextModel) -> ModelConfig:
    """Return the configuration of the tokenizer of a text model: strings to token ids and mask."""
    config = _model(served, text.tokenizer, "python")
    config.input.add(name=TEXT, data_type="TYPE_STRING", dims=[1])
    for name in INPUTS:
        config.output.add(name=name, data_type="TYPE_INT64", dims=[-1])
    _keep_versions(config)
    if served.buckets:
        # Requests that are tokenized together are answered in the order of their widths. Where that is not needed, each
        # is tokenized alone: the python backend fails all requests of a batch for one whose bytes are not the strings
        # that they say they are. On two busy cores, 32 clients got 61 sentences a second with and without batches.
        _batch(config, served, options)
    config.instance_group.add(count=1, kind="KIND_CPU")
    _set(
        config,
        {
            "prompt": text.prompt,
            PROMPTS: json.dumps(served.bundle.manifest.encoder.prompts, ensure_ascii=False),
            "max_text_bytes": str(options.max_text_bytes),
            "sequence_buckets": ",".join(map(str, served.buckets)),
            TOKENIZER_HASH: served.tokenizer_sha256,
        },
    )
    sample = config.model_warmup.add(name="one_empty_text", batch_size=1)
    sample.inputs[TEXT].data_type = _enum("TYPE_STRING")
    sample.inputs[TEXT].dims.append(1)
    sample.inputs[TEXT].zero_data = True
    return config


def ensemble_config(served: Served, options: Options, version: int, text: TextModel) -> ModelConfig:
    """Return the configuration of the ensemble of a text model: strings to vectors.

    Its steps are ``version`` of the tokenizer and of the encoder.
    """
    config = _model(served, text.ensemble, None)
    config.input.add(name=TEXT, data_type="TYPE_STRING", dims=[1])
    config.output.add(name=OUTPUT, data_type="TYPE_FP32", dims=[served.bundle.manifest.encoder.dimension])
    config.version_policy.latest.num_versions = 1
    tokenize = config.ensemble_scheduling.step.add(model_name=text.tokenizer, model_version=version)
    tokenize.input_map[TEXT] = TEXT
    encode = config.ensemble_scheduling.step.add(model_name=served.name, model_version=version)
    for name in INPUTS:
        tokenize.output_map[name] = name
        encode.input_map[name] = name
    encode.output_map[OUTPUT] = OUTPUT
    if options.response_cache and served.one_prompt:
        config.response_cache.enable = True
    return config


def warm_up_files(served: Served) -> dict[str, bytes]:
    """Return the files that the encoder's warm-up samples read: one row of int64 ones each; Triton repeats it."""
    one = (1).to_bytes(8, "little")
    return {ONES.format(tokens): one * tokens for tokens in {served.sequence.min, served.sequence.max}}


def to_text(config: ModelConfig) -> str:
    """Return a configuration as the text that ``config.pbtxt`` holds."""
    text: str = require("google.protobuf.text_format").MessageToString(config)
    return text


def read_config(path: Path) -> ModelConfig:
    """Read a ``config.pbtxt``.

    Raises:
        InputError: It cannot be read, or is no model configuration; the line is named.
    """
    text_format = require("google.protobuf.text_format")
    try:
        config: ModelConfig = text_format.Parse(read_text(path, MiB), _proto().ModelConfig())
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}") from error
    except text_format.ParseError as error:
        raise InputError(f"{path}: not a model configuration: {first_line(error)}") from error
    return config


def parameter(config: ModelConfig, name: str) -> str | None:
    """Return a parameter of a configuration, or None where it is not set."""
    return config.parameters[name].string_value if name in config.parameters else None


def vectors_of(config: ModelConfig, model: Path) -> int:
    """Return the dimension of the vectors of an ensemble.

    Raises:
        InputError: Its configuration has another output than vectors.
    """
    if len(config.output) != 1 or len(config.output[0].dims) != 1:
        raise InputError(
            f"{model / FILE}: an ensemble has one output of one dimension, and this one has not",
            next_step="give the bundle another `name`, or move that folder away",
        )
    return int(config.output[0].dims[0])


def part_of(config: ModelConfig) -> str:
    """Return what a configuration of ours is of: ``"encoder"``, ``"tokenizer"`` or ``"ensemble"``."""
    if config.platform == "ensemble":
        return "ensemble"
    return "encoder" if parameter(config, TOKENIZER_HASH) is None else "tokenizer"


def engine_name(manifest: Manifest) -> str:
    """Return what an engine is in words, as configurations state it: ``"fp16 on onnxruntime"``."""
    return f"{manifest.engine.precision} on {manifest.engine.backend}"


def _proto() -> Any:
    require("grpc")  # tritonclient's message for its absence names neither the package nor the extra
    return require("tritonclient.grpc.model_config_pb2")


def _enum(name: str) -> int:
    number: int = _proto().DataType.Value(name)
    return number


def _model(served: Served, name: str, backend: str | None) -> ModelConfig:
    """Return what all configurations begin with, the bundle's identity included."""
    config: ModelConfig = _proto().ModelConfig(name=name, max_batch_size=served.batch.max)
    if backend is None:
        config.platform = "ensemble"
    else:
        config.backend = backend
    manifest = served.bundle.manifest
    _set(
        config,
        {
            "korsbert_bundle": manifest.seal,
            "korsbert_recipe": manifest.recipe.name,
            "korsbert_engine": engine_name(manifest),
            "korsbert_source": f"{manifest.source.checkpoint}@{manifest.source.commit or ''}".removesuffix("@"),
        },
    )
    return config


def _keep_versions(config: ModelConfig) -> None:
    config.version_policy.latest.num_versions = KEPT_VERSIONS


def _batch(config: ModelConfig, served: Served, options: Options) -> None:
    config.dynamic_batching.preferred_batch_size.extend(sorted({served.batch.opt, served.batch.max}))
    delay = options.queue_delay_us
    if delay is None:
        delay = 0 if served.backend == "python" and not served.on_gpu else QUEUE_DELAY_US
    config.dynamic_batching.max_queue_delay_microseconds = delay


def _set(config: ModelConfig, parameters: Mapping[str, str]) -> None:
    for name, value in parameters.items():
        config.parameters[name].string_value = value


def _engine_parameters(served: Served) -> dict[str, str]:
    """Return the parameters that our encoder in the python backend reads."""
    if served.backend != "python":
        return {}
    # threads 0: the cores of the machine, shared between the instances. padding_tokens: on a CPU anything up to some 64
    # did (benchmarks/results/triton.md, measured when batches were larger). batch_tokens: larger batches were no faster
    # with the demo on ONNX Runtime on a CPU, and their sentences are answered later; no other model or engine was
    # measured. A GPU's figures are guesses.
    padding_tokens, batch_tokens = (2048, served.batch.max * TOKENS_PER_ROW) if served.on_gpu else (16, 512)
    return {"threads": "0", "padding_tokens": str(padding_tokens), "batch_tokens": str(batch_tokens)}


def _optimize(config: ModelConfig, served: Served, options: Options) -> None:
    """Set what makes a backend fast."""
    optimization = config.optimization
    if served.backend == "tensorrt":
        # One CUDA graph per batch size and width at the corners: other shapes run as they do without graphs.
        optimization.cuda.graphs = True
        optimization.cuda.output_copy_stream = True
        for rows, tokens in _corners(served):
            spec = optimization.cuda.graph_spec.add(batch_size=rows)
            for name in INPUTS:
                spec.input[name].dim.append(tokens)
        optimization.eager_batching = True
    elif options.accelerator == "tensorrt":
        accelerator = optimization.execution_accelerators.gpu_execution_accelerator.add(name="tensorrt")
        precision = served.bundle.manifest.engine.precision
        accelerator.parameters["precision_mode"] = "FP16" if precision == "fp16" else "FP32"
        # Without the profile it would compile anew for every larger shape it meets.
        for extent in ("min", "opt", "max"):
            rows, tokens = getattr(served.batch, extent), getattr(served.sequence, extent)
            shapes = ",".join(f"{name}:{rows}x{tokens}" for name in INPUTS)
            accelerator.parameters[f"trt_profile_{extent}_shapes"] = shapes
    elif served.backend == "onnxruntime" and served.on_gpu:
        # TF32 has ten bits of mantissa: not what was proven. One stream for all spares waiting between them.
        accelerator = optimization.execution_accelerators.gpu_execution_accelerator.add(name="cuda")
        accelerator.parameters["use_tf32"] = "0"
        accelerator.parameters["use_ep_level_unified_stream"] = "1"


def _corners(served: Served) -> list[tuple[int, int]]:
    """Return (rows, tokens) at the corners of the shapes. A CPU is spared the largest, which would take it minutes."""
    batch, sequence = served.batch, served.sequence
    corners = {(1, sequence.min), (1, sequence.max), (batch.max, sequence.min)}
    if served.on_gpu:
        corners.add((batch.max, sequence.max))
    return sorted(corners)


def _warm_up(config: ModelConfig, rows: int, tokens: int) -> None:
    """Add a sample: token id 0, which every vocabulary has, under a mask of ones, one row that Triton repeats."""
    sample = config.model_warmup.add(name=f"{rows}x{tokens}", batch_size=rows)
    ids, mask = (sample.inputs[name] for name in INPUTS)
    for tensor in (ids, mask):
        tensor.data_type = _enum("TYPE_INT64")
        tensor.dims.append(tokens)
    ids.zero_data = True
    mask.input_data_file = ONES.format(tokens)
