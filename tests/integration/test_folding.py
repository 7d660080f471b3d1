"""Every architecture and module that folding serves, against sentence-transformers, on both engines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from exporter.calibration import TokenBatches
from exporter.checkpoint import Checkpoint, load_checkpoint
from exporter.engines import BACKENDS, EngineFiles, backend_of
from exporter.engines.building import with_target_passes
from exporter.errors import BuildError, EngineError, UnsupportedModelError
from exporter.graph import Graph, deberta
from exporter.graph.folding import fold
from exporter.precisions import PRECISIONS, cast_graph
from exporter.recipe import Recipe, Shapes, find_recipe
from exporter.runtime.encoder import Encoder
from exporter.targets import OLDEST_OPSET, Backend, Device, Precision, Target
from exporter.validator.dataflow import check_dataflow
from tests.support.checkpoints import ARCHITECTURES, MAX_SEQ_LENGTH, save_checkpoint

ON_CPU = [name for name in BACKENDS if not name.needs_gpu]
SENTENCES = [
    "",
    "가",
    "지하철이 늦게 와서 회의에 지각했다.",
    "The LAST bus to Busan leaves at 23:40.",
    "새로 산 커피 그라인더가 생각보다 조용해서 아침마다 쓰기 좋다. " * 9,  # longer than the longest input
    "비가 그치면 뒷산에 버섯을 따러 가자.",
]

# Every architecture with mean pooling, then every pooling and module on one of them.
CASES = [
    *((architecture, "mean", ()) for architecture in ARCHITECTURES),
    *(("bert", mode, ()) for mode in ("cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")),
    ("bert", ("cls", "mean", "max"), ()),
    ("bert", "mean", ("dense",)),
    ("bert", "mean", ("normalize",)),
    ("albert", ("lasttoken", "weightedmean"), ("dense", "layer_norm", "normalize")),
    ("roberta", "cls", ("layer_norm", "dense")),
]

# One for each list of passes.
TARGETS = [
    Target(Precision.FP32, Backend.ONNXRUNTIME, Device.CPU),
    Target(Precision.FP32, Backend.OPENVINO, Device.CPU),
    Target(Precision.FP16, Backend.ONNXRUNTIME, Device.CUDA),
    Target(Precision.FP16, Backend.TENSORRT_RTX, Device.CUDA),
    *(Target(Precision.FP32, Backend.ONNXRUNTIME, Device.CPU, opset) for opset in (OLDEST_OPSET, 20)),
]
ACTIVATIONS = ("gelu_new", "quick_gelu", "relu", "relu6", "silu", "tanh", "leaky_relu")


def loaded(folder: Path, *case: Any) -> Checkpoint:
    return load_checkpoint(Recipe(name="case", source=str(save_checkpoint(folder, *case))))


def encoder_of(graph: Graph, checkpoint: Checkpoint, backend: str, folder: Path) -> Encoder:
    engine = backend_of(backend).build(graph, Shapes(), folder)
    runner = backend_of(backend).open(engine, EngineFiles.read(engine, folder), "cpu", 1)
    return Encoder(
        checkpoint.tokenizer,
        runner,
        dimension=checkpoint.facts.dimension,
        max_seq_length=checkpoint.facts.max_seq_length,
    )


@pytest.fixture(scope="module", params=CASES, ids=str)
def folded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Graph]:
    checkpoint = loaded(tmp_path_factory.mktemp("case"), *request.param)
    return checkpoint, fold(checkpoint)


def test_it_equals_sentence_transformers(folded: tuple[Checkpoint, Graph], tmp_path: Path) -> None:
    checkpoint, graph = folded
    reference = checkpoint.encode(SENTENCES)
    onnx.checker.check_model(onnx.load_from_string(graph.to_bytes()), full_check=True)
    assert not {"GatherND", "IsNaN"} & set(graph.op_counts())  # no mask stays as transformers builds it
    for backend in ON_CPU:
        with encoder_of(graph, checkpoint, backend, tmp_path) as encoder:
            np.testing.assert_allclose(encoder.encode(SENTENCES), reference, atol=5e-6, err_msg=backend)


@pytest.mark.parametrize("target", [None, *TARGETS], ids=str)
def test_the_data_flow_is_sound_for_every_target(folded: tuple[Checkpoint, Graph], target: Target | None) -> None:
    checkpoint, graph = folded
    padding_id = checkpoint.model[0].auto_model.get_input_embeddings().padding_idx
    if target is not None:
        graph = with_target_passes(graph, target)
    assert check_dataflow(graph, padding_id, checkpoint.facts.heads).failures == ()


def test_attention_is_fused_where_transformers_offers_it(folded: tuple[Checkpoint, Graph]) -> None:
    checkpoint, graph = folded
    config = checkpoint.model[0].auto_model.config
    counts, layers = graph.op_counts(), checkpoint.facts.layers * getattr(config, "inner_group_num", 1)
    if checkpoint.facts.architecture in ("DebertaV2Model", "MPNetModel", "RoFormerModel"):  # no SDPA in transformers
        assert counts["Softmax"] == layers
    else:
        assert counts["Attention"] == layers
        assert "Softmax" not in counts


def test_a_lower_opset_changes_no_vector(folded: tuple[Checkpoint, Graph], tmp_path: Path) -> None:
    checkpoint, graph = folded
    lowered = with_target_passes(graph, Target(Precision.FP32, Backend.ONNXRUNTIME, Device.CPU, OLDEST_OPSET))
    model = onnx.load_from_string(lowered.to_bytes())
    onnx.checker.check_model(model, full_check=True)
    assert (model.opset_import[0].version, model.ir_version) == (OLDEST_OPSET, 8)
    with encoder_of(lowered, checkpoint, "onnxruntime", tmp_path) as encoder:
        np.testing.assert_allclose(encoder.encode(SENTENCES), checkpoint.encode(SENTENCES), atol=5e-6)


@pytest.mark.skipif("deberta-v2" not in ARCHITECTURES, reason="the installed versions cannot fold it")
@pytest.mark.parametrize(
    "changes",
    [
        {"share_att_key": False},
        {"share_att_key": False, "pos_att_type": ["c2p"]},
        {"pos_att_type": ["p2c"]},
        {"pos_att_type": []},
        {"position_buckets": -1, "norm_rel_ebd": "none"},
        {"relative_attention": False, "position_biased_input": True, "type_vocab_size": 2},
    ],
    ids=str,
)
def test_the_rewritten_attention_of_deberta_equals_that_of_transformers(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    sizes = {**ARCHITECTURES["deberta-v2"][2], **changes}
    folder = save_checkpoint(tmp_path, "deberta-v2", sizes=sizes, max_seq_length=MAX_SEQ_LENGTH)
    checkpoint = load_checkpoint(Recipe(name="case", source=str(folder)))
    before = checkpoint.encode(SENTENCES)
    graph = fold(checkpoint)
    np.testing.assert_array_equal(checkpoint.encode(SENTENCES), before)  # the reference's attention is as it was
    assert check_dataflow(graph, 0, checkpoint.facts.heads).failures == ()
    with encoder_of(graph, checkpoint, "onnxruntime", tmp_path) as encoder:
        np.testing.assert_allclose(encoder.encode(SENTENCES), before, atol=5e-6)


@pytest.mark.skipif("deberta-v2" not in ARCHITECTURES, reason="the installed versions cannot fold it")
def test_a_wrong_form_of_that_attention_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gate sees distances only as far as a sentence's words care for them."""
    scores_by_distance = deberta._scores_by_distance

    def shifted(attention: Any, query: Any, key: Any, distances: Any, vectors: Any) -> Any:
        far = distances.abs() > 12
        return scores_by_distance(attention, query, key, distances - far.long() * distances.sign(), vectors)

    checkpoint = loaded(tmp_path, "deberta-v2")
    monkeypatch.setattr(deberta, "_scores_by_distance", shifted)
    with pytest.raises(UnsupportedModelError, match="korsbert's form of DeBERTa's attention differs"):
        fold(checkpoint)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_data_flow_of_every_activation_is_sound(name: str, tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, "bert")
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | {"hidden_act": name}), encoding="utf-8")
    graph = fold(load_checkpoint(Recipe(name="case", source=str(folder))))
    assert "Gelu" not in graph.op_counts()
    assert check_dataflow(graph, 0, 4).failures == ()


@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize("architecture", ["bert", "roberta", "mpnet"])
def test_a_sequence_above_the_maximum_fails_in_the_graph(architecture: str, backend: str, tmp_path: Path) -> None:
    checkpoint = loaded(tmp_path, architecture)
    engine = backend_of(backend).build(fold(checkpoint), Shapes(), tmp_path)
    with backend_of(backend).open(engine, EngineFiles.read(engine, tmp_path), "cpu", 1) as runner:
        for length in (1, MAX_SEQ_LENGTH):
            ids = np.full((2, length), 5, dtype=np.int64)
            assert runner.run(ids, np.ones_like(ids)).shape == (2, 32)
        ids = np.full((2, MAX_SEQ_LENGTH + 1), 5, dtype=np.int64)
        with pytest.raises(EngineError, match=r"refused a batch of \(2, 65\)"):
            runner.run(ids, np.ones_like(ids))


def test_the_position_table_limits_what_the_checkpoint_asks_for(tmp_path: Path) -> None:
    """RoBERTa's table of 130 serves 129 positions after padding_idx 0: asking for 512 must not read past it."""
    folder = save_checkpoint(tmp_path, "roberta")
    for name in ("tokenizer_config.json", "sentence_bert_config.json"):
        text = (folder / name).read_text(encoding="utf-8")
        (folder / name).write_text(text.replace(str(MAX_SEQ_LENGTH), "512"), encoding="utf-8")
    checkpoint = load_checkpoint(Recipe(name="case", source=str(folder)))
    assert checkpoint.facts.max_seq_length == 129
    with encoder_of(fold(checkpoint), checkpoint, "onnxruntime", tmp_path) as encoder:
        np.testing.assert_allclose(encoder.encode(SENTENCES), checkpoint.encode(SENTENCES), atol=5e-6)


def test_shared_weights_are_stored_once_and_the_file_is_no_larger_than_the_parameters() -> None:
    checkpoint = load_checkpoint(find_recipe("demo"))  # real ALBERT weights: one layer, used four times
    graph = fold(checkpoint)
    assert len(graph.to_bytes()) <= 1.02 * checkpoint.parameter_bytes()
    arrays = [
        value.const_value.numpy().tobytes()
        for value in graph.model.graph.initializers.values()
        if value.const_value is not None and value.const_value.size > 256
    ]
    assert len(arrays) == len(set(arrays))
    transposed = [node for node in graph.model.graph if node.op_type == "Transpose"]
    assert not any(node.inputs[0] is not None and node.inputs[0].is_initializer() for node in transposed)


@pytest.mark.parametrize("architecture", ["albert", "bert"])
def test_nodes_are_named_after_their_modules_and_uses(architecture: str, tmp_path: Path) -> None:
    names = [str(node.name) for node in fold(loaded(tmp_path, architecture)).model.graph]
    assert len(names) == len(set(names))
    for layer in (0, 1):
        assert sum(name.startswith(f"layer.{layer}.attention") and "query" in name for name in names) == 2
    assert not any("/root" in name or "site-packages" in name for name in names)


@pytest.mark.parametrize("precision", [name for name in PRECISIONS if not name.is_int8])
@pytest.mark.parametrize("backend", ON_CPU)
def test_every_precision_is_typed_and_runs_where_it_can(precision: str, backend: str, tmp_path: Path) -> None:
    checkpoint = loaded(tmp_path, "albert", "mean")
    graph = cast_graph(fold(checkpoint), precision, TokenBatches(tuple(SENTENCES), checkpoint.tokenizer))
    assert graph.precision == precision
    onnx.checker.check_model(onnx.load_from_string(graph.to_bytes()), full_check=True)
    _assert_operands_agree(graph)
    if (precision, backend) == ("bf16", "onnxruntime"):
        with pytest.raises(BuildError, match="cannot run bfloat16"):
            encoder_of(graph, checkpoint, backend, tmp_path)
        return
    with encoder_of(graph, checkpoint, backend, tmp_path) as encoder:
        found, wanted = encoder.encode(SENTENCES), checkpoint.encode(SENTENCES)
    assert found.dtype == np.float32
    error = np.linalg.norm(found - wanted, axis=1) / np.linalg.norm(wanted, axis=1)
    assert error.max() < {"fp32": 1e-5, "fp16": 1e-2, "bf16": 1e-1}[precision]


def _assert_operands_agree(graph: Graph) -> None:
    """One type per operator: TensorRT's strong typing refuses anything else."""
    floats = {"FLOAT", "FLOAT16", "BFLOAT16"}
    for node in graph.model.graph:
        kinds = {v.dtype.name for v in node.inputs if v is not None and v.dtype is not None} & floats
        assert len(kinds) <= 1, (node.name, kinds)


def test_folding_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    checkpoint = loaded(tmp_path, "albert")
    assert fold(checkpoint).to_bytes() == fold(checkpoint).to_bytes()


def test_the_cpu_provider_is_the_one_that_runs(tmp_path: Path) -> None:
    checkpoint = loaded(tmp_path, "bert")
    with encoder_of(fold(checkpoint), checkpoint, "onnxruntime", tmp_path) as encoder:
        assert encoder.execution == "CPUExecutionProvider"
    assert "CPUExecutionProvider" in onnxruntime.get_available_providers()


def test_a_pooling_that_leaves_the_prompt_out_is_refused(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path)
    config = folder / "1_Pooling" / "config.json"
    text = config.read_text(encoding="utf-8").replace('"include_prompt": true', '"include_prompt": false')
    config.write_text(text, encoding="utf-8")
    with pytest.raises(UnsupportedModelError, match="include_prompt"):
        load_checkpoint(Recipe(name="case", source=str(folder)))
