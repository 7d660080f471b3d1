"""The linter on models that need no engine: names, and what leads out of a model's folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from exporter.bundle import TOKENIZER, Bundle
from exporter.errors import InputError
from exporter.serving.triton import Options, repository
from exporter.serving.triton.config import FILE, read_config, to_text
from exporter.serving.triton.lint import Finding, check


def write_model(repository: Path, name: str, config: str) -> None:
    """Write a model of the python backend, which nobody can judge but by its configuration."""
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "1" / "model.py").touch()
    (repository / name / FILE).write_text(config, encoding="utf-8")


def only_finding(repository: Path) -> Finding:
    (finding,) = check(repository)
    assert finding.fix
    return finding


@pytest.mark.parametrize("name", [".hidden", "with space", "한국어", "x" * 129])
def test_a_folder_s_name_is_of_the_alphabet(tmp_path: Path, name: str) -> None:
    write_model(tmp_path, name, 'backend: "python"')
    finding = only_finding(tmp_path)
    assert (finding.file, finding.field, finding.found) == (tmp_path / name, "folder name", repr(name))
    assert "a-z, A-Z, 0-9" in finding.wanted


@pytest.mark.parametrize("path", ["../../model.py", "/etc/passwd", "sub/model.py", ".."])
def test_the_file_of_a_model_is_in_its_folder(tmp_path: Path, path: str) -> None:
    write_model(tmp_path, "theirs", f'backend: "python" default_model_filename: "{path}"')
    finding = only_finding(tmp_path)
    assert (finding.field, finding.found, finding.wanted) == (
        "default_model_filename",
        repr(path),
        "the name of a file",
    )


@pytest.mark.parametrize("path", ["../1/model.py", "/etc/passwd"])
def test_the_data_of_a_warm_up_sample_is_in_its_folder(tmp_path: Path, path: str) -> None:
    (tmp_path / "theirs" / "warmup").mkdir(parents=True)
    sample = f'inputs {{ key: "x" value {{ data_type: TYPE_FP32 dims: 1 input_data_file: "{path}" }} }}'
    config = (
        f'backend: "python" input {{ name: "x" data_type: TYPE_FP32 dims: 1 }} model_warmup {{ name: "a" {sample} }}'
    )
    write_model(tmp_path, "theirs", config)
    finding = only_finding(tmp_path)
    assert (finding.field, finding.found) == ("model_warmup[a].input_data_file", repr(path))


def test_only_a_tokenizer_without_buckets_takes_its_requests_one_by_one(tmp_path: Path) -> None:
    buckets = 'parameters {{ key: "sequence_buckets" value {{ string_value: "{}" }} }}'.format
    base = 'backend: "python" max_batch_size: 8 input { name: "x" data_type: TYPE_FP32 dims: 1 } '
    write_model(tmp_path, "ours", base + buckets(""))
    assert check(tmp_path) == []
    write_model(tmp_path, "theirs", base + buckets("16,32"))
    assert only_finding(tmp_path).field == "dynamic_batching"


@pytest.mark.parametrize("name", ["../../theirs", "/theirs", "a/b", "..", ""])
def test_the_step_of_an_ensemble_names_a_model_and_no_path(tmp_path: Path, name: str) -> None:
    step = f'ensemble_scheduling {{ step {{ model_name: "{name}" model_version: -1 }} }}'
    write_model(tmp_path, "text", f'platform: "ensemble" {step}')
    finding = only_finding(tmp_path)
    assert (finding.field, finding.found) == ("ensemble_scheduling.step[0].model_name", repr(name))


def write_openvino_model(repository: Path, config: str) -> None:
    """Write a model of the openvino backend that returns its input, (any, 4) float32."""
    import openvino as ov
    from openvino import opset8

    (repository / "theirs" / "1").mkdir(parents=True)
    x = opset8.parameter([-1, 4], np.float32, name="x")
    x.output(0).tensor.set_names({"x"})
    y = opset8.result(x)
    y.output(0).tensor.set_names({"x"})
    ov.save_model(ov.Model([y], [x]), repository / "theirs" / "1" / "model.xml", compress_to_fp16=False)
    (repository / "theirs" / FILE).write_text(config, encoding="utf-8")


OPENVINO = 'backend: "openvino" max_batch_size: {} input {{ {} }} output {{ {} }}'
TENSOR = 'name: "x" data_type: TYPE_FP32 dims: {}'


def test_openvino_with_batches_is_found(tmp_path: Path) -> None:
    write_openvino_model(tmp_path, OPENVINO.format(8, TENSOR.format("[4]"), TENSOR.format("[4]")))
    finding = only_finding(tmp_path)
    assert (finding.field, finding.found, finding.wanted) == ("max_batch_size", "8", "0")
    assert "refuses every batch of another size: ship the bundle with the python runtime" in finding.fix


@pytest.mark.parametrize(("most", "dims"), [(0, "[-1, 4]"), (1, "[4]")])
def test_openvino_without_batches_is_sound(tmp_path: Path, most: int, dims: str) -> None:
    write_openvino_model(tmp_path, OPENVINO.format(most, TENSOR.format(dims), TENSOR.format(dims)))
    assert check(tmp_path) == []


@pytest.fixture(scope="module")
def shipped(demo_fp32: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shipped") / "models"
    for options in (Options(runtime="python"), Options(runtime="engine")):
        repository.ship([Bundle.open(demo_fp32)], folder, options, name=f"demo-{options.runtime}")
    assert check(folder) == []
    return folder


class TestOfAShippedBundle:
    """What whoever can write to a repository may leave there: ``check`` ends, in findings."""

    @pytest.fixture
    def models(self, shipped: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(shipped, tmp_path / "models"))

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            (None, "No such file or directory"),
            ("pipe", "it is not a regular file"),
            ("{}", "not a tokenizer: "),
        ],
    )
    def test_a_tokenizer_that_cannot_be_read(self, models: Path, content: str | None, told: str) -> None:
        path = models / "demo-python_tokenizer" / "1" / TOKENIZER
        path.unlink()
        if content == "pipe":
            os.mkfifo(path)
        elif content is not None:
            path.write_text(content, encoding="utf-8")
        (finding,) = check(models)
        assert (finding.file, finding.field) == (path, "file")
        assert finding.found.startswith(told)

    def test_a_pipe_in_place_of_an_engine(self, models: Path) -> None:
        path = models / "demo-engine" / "1" / "model.onnx"
        path.unlink()
        os.mkfifo(path)
        assert ("model file", "model.onnx") in {(finding.field, finding.wanted) for finding in check(models)}

    def test_buckets_that_are_no_numbers_of_tokens(self, models: Path) -> None:
        path = models / "demo-engine_tokenizer" / FILE
        config = read_config(path)
        config.parameters["sequence_buckets"].string_value = "9" * 5000
        path.write_text(to_text(config), encoding="utf-8")
        (finding,) = check(models)
        assert finding.field == "parameters[sequence_buckets]"
        assert len(finding.found) < 300

    def test_a_ship_does_not_wait_for_a_pipe(self, models: Path, demo_fp32: Path) -> None:
        os.mkfifo(models / "demo-python" / "1" / "pipe")
        (done,) = repository.ship([Bundle.open(demo_fp32)], models, Options(runtime="python"), name="demo-python")
        assert done.version == 2

    def test_an_ensemble_without_vectors(self, models: Path, demo_fp32: Path) -> None:
        path = models / "demo-python_text" / FILE
        config = read_config(path)
        del config.output[:]
        path.write_text(to_text(config), encoding="utf-8")
        with pytest.raises(InputError, match="an ensemble has one output of one dimension, and this one has not"):
            repository.ship([Bundle.open(demo_fp32)], models, Options(runtime="python"), name="demo-python")
