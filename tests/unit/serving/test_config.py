"""Configurations against the files that were agreed on, one per backend of Triton.

After a deliberate change: ``python -m tests.unit.serving.test_config`` writes them anew; read the difference.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from exporter.bundle import Bundle
from exporter.errors import BundleError, InputError
from exporter.recipe import Range, Recipe, Shapes
from exporter.serving.triton.config import (
    encoder_config,
    ensemble_config,
    parameter,
    read_config,
    to_text,
    tokenizer_config,
    warm_up_files,
)
from exporter.serving.triton.facts import Options, Served, served
from tests.support.served_bundles import bundle_of

EXPECTED = Path(__file__).with_name("expected")
ENGINE, PYTHON = Options(), Options(runtime="python")
TENSORRT = Options(gpus=(0,), accelerator="tensorrt")
GPUS = Options(instances=2, gpus=(0, 1), queue_delay_us=2000, response_cache=True)


def wanted() -> dict[str, str]:
    """Return the text of every file under ``expected/``."""
    cases: dict[str, tuple[Served, Options]] = {
        "python": (served(bundle_of("onnxruntime"), PYTHON), PYTHON),
        "onnxruntime": (served(bundle_of("onnxruntime"), ENGINE), ENGINE),
        "onnxruntime-gpu": (served(bundle_of("onnxruntime", "fp16"), GPUS), GPUS),
        "onnxruntime-tensorrt": (served(bundle_of("onnxruntime", "fp16"), TENSORRT), TENSORRT),
        "tensorrt": (served(bundle_of("tensorrt", "fp16", "cuda"), GPUS), GPUS),
    }
    texts = {f"{name}.pbtxt": to_text(encoder_config(*case)) for name, case in cases.items()}
    for name, version in (("python", 3), ("onnxruntime-gpu", 1)):
        one, options = cases[name]
        texts[f"{name}_text.pbtxt"] = to_text(ensemble_config(one, options, version, one.texts[0]))
    for name in ("python", "onnxruntime"):
        one, options = cases[name]
        texts[f"{name}_tokenizer.pbtxt"] = to_text(tokenizer_config(one, options, one.texts[0]))
    return texts


@pytest.mark.parametrize("name", wanted())
def test_a_configuration_is_the_one_agreed_on(name: str) -> None:
    assert wanted()[name] == (EXPECTED / name).read_text(encoding="utf-8")


def test_every_agreed_file_is_held_against_something() -> None:
    assert {path.name for path in EXPECTED.iterdir()} == wanted().keys()


@pytest.mark.parametrize("name", wanted())
def test_what_is_written_can_be_read(name: str) -> None:
    assert to_text(read_config(EXPECTED / name)) == wanted()[name]


def test_an_engine_without_a_backend_needs_the_python_runtime() -> None:
    with pytest.raises(BundleError, match="no backend for tensorrt-rtx") as caught:
        served(bundle_of("tensorrt-rtx", device="cuda"), ENGINE)
    assert caught.value.next_step == "use `runtime=python`"
    assert served(bundle_of("tensorrt-rtx", device="cuda"), PYTHON).backend == "python"


def test_the_accelerator_is_for_onnxruntime_on_a_gpu() -> None:
    for backend, options in (("onnxruntime", Options(accelerator="tensorrt")), ("tensorrt", TENSORRT)):
        with pytest.raises(InputError, match="`accelerator` is for onnxruntime engines on a GPU"):
            served(bundle_of(backend), options)


@pytest.mark.parametrize(
    ("bundle", "options", "message"),
    [
        (bundle_of("onnxruntime", "int8"), GPUS, "its int8 graph is for cpu kernels"),
        (bundle_of("onnxruntime", "int8", "cuda"), TENSORRT, "does not support int8"),
        (bundle_of("onnxruntime", "bf16", "cuda"), TENSORRT, "does not support bf16"),
        (bundle_of("onnxruntime", "fp16", "cuda", padding="right"), TENSORRT, "ignores the sequence lengths"),
    ],
)
def test_what_triton_would_answer_otherwise_is_refused(bundle: Bundle, options: Options, message: str) -> None:
    with pytest.raises(BundleError, match=message) as caught:
        served(bundle, options)
    assert caught.value.next_step


def test_a_checkpoint_that_truncates_vectors_is_refused() -> None:
    bundle = bundle_of("onnxruntime")
    for truncate_dim in (None, bundle.manifest.encoder.dimension):
        facts = bundle.manifest.encoder.model_copy(update={"truncate_dim": truncate_dim})
        served(Bundle(bundle.folder, bundle.manifest.model_copy(update={"encoder": facts})), PYTHON)
    facts = bundle.manifest.encoder.model_copy(update={"truncate_dim": 8})
    with pytest.raises(BundleError, match="truncates vectors to 8 dimensions, which Triton does not do"):
        served(Bundle(bundle.folder, bundle.manifest.model_copy(update={"encoder": facts})), PYTHON)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_openvino_goes_through_the_python_runtime(precision: str) -> None:
    with pytest.raises(BundleError, match="openvino backend fixes the batch at max_batch_size and refuses") as caught:
        served(bundle_of("openvino", precision), ENGINE)
    assert caught.value.next_step == "use `runtime=python`"
    assert served(bundle_of("openvino", precision), PYTHON).backend == "python"


def test_attention_by_lengths_is_stated() -> None:
    options = Options(gpus=(0,))
    by_lengths = encoder_config(served(bundle_of("onnxruntime", "fp16", "cuda", padding="right"), options), options)
    by_mask = encoder_config(served(bundle_of("onnxruntime", "fp16", "cuda"), options), options)
    assert parameter(by_lengths, "korsbert_padding") == "right"
    assert parameter(by_mask, "korsbert_padding") is None


def test_the_oldest_onnxruntime_is_stated_where_triton_brings_its_own() -> None:
    options = Options(gpus=(0,))
    by_lengths = bundle_of("onnxruntime", "fp16", "cuda", padding="right")
    least = "korsbert_least_onnxruntime"
    assert parameter(encoder_config(served(by_lengths, options), options), least) == "1.25"
    assert parameter(encoder_config(served(bundle_of("onnxruntime"), ENGINE), ENGINE), least) == "1.23"
    assert parameter(encoder_config(served(by_lengths, PYTHON), PYTHON), least) is None
    assert parameter(encoder_config(served(bundle_of("tensorrt", device="cuda"), ENGINE), ENGINE), least) is None


def test_openvino_has_no_place_on_a_gpu() -> None:
    with pytest.raises(InputError, match="openvino engines run on the CPU"):
        served(bundle_of("openvino"), Options(runtime="python", gpus=(0,)))


OUTSIDE = (
    "../../x",
    "/absolute",
    "a/b",
    "a\\b",
    "..",
    ".hidden",
    "-option",
    "",
    "x" * 129,
    "한국어",
    "a b",
    "a\n",
    "a\0",
)


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_is_one_part_of_a_path(name: str) -> None:
    with pytest.raises(InputError, match=r"`name` .* cannot be a model's: a name has 1 to 128 of a-z") as caught:
        served(bundle_of("onnxruntime"), PYTHON, name)
    assert caught.value.next_step == "give another `name`"


def test_a_recipe_s_name_is_refused_like_one_that_is_given() -> None:
    korean = bundle_of("onnxruntime", recipe=Recipe(name="한국어", source="demo/checkpoint"))
    with pytest.raises(InputError, match="nowhere/onnxruntime: the recipe's name '한국어' cannot be a model's"):
        served(korean, PYTHON)
    assert served(korean, PYTHON, "ko-1.0_A").name == "ko-1.0_A"


@pytest.mark.parametrize(
    ("backend", "options", "delay_us"),
    [
        ("onnxruntime", Options(runtime="python"), 0),
        ("onnxruntime", Options(runtime="python", queue_delay_us=70), 70),
        ("onnxruntime", Options(runtime="python", gpus=(0,)), 500),
        ("onnxruntime", Options(), 500),
        ("onnxruntime", Options(queue_delay_us=0), 0),
        ("tensorrt", Options(), 500),
    ],
)
def test_a_request_waits_where_a_batch_gains_by_it(backend: str, options: Options, delay_us: int) -> None:
    config = encoder_config(served(bundle_of(backend), options), options)
    assert config.dynamic_batching.max_queue_delay_microseconds == delay_us


@pytest.mark.parametrize("change", [{"instances": 0}, {"queue_delay_us": -1}, {"gpus": (-1,)}, {"max_text_bytes": 0}])
def test_impossible_numbers_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Options(**change)


@pytest.mark.parametrize(
    ("sequence", "buckets"),
    [
        (Range(min=1, opt=32, max=256), (16, 32, 64, 128, 256)),
        (Range(min=1, opt=40, max=100), (16, 32, 40, 64, 100)),
        (Range(min=32, opt=32, max=128), (32, 64, 128)),
        (Range(min=1, opt=8, max=8), (8,)),
        (None, (16, 32, 64, 128, 256)),
    ],
)
def test_buckets_lie_within_the_profile_and_reach_its_end(sequence: Range | None, buckets: tuple[int, ...]) -> None:
    demo = bundle_of("onnxruntime").manifest.recipe
    recipe = demo.model_copy(update={"shapes": Shapes(sequence=sequence)})
    assert served(bundle_of("onnxruntime", recipe=recipe), ENGINE).buckets == buckets
    assert served(bundle_of("onnxruntime", recipe=recipe), PYTHON).buckets == ()


def test_warm_up_data_is_a_mask_of_ones() -> None:
    files = warm_up_files(served(bundle_of("onnxruntime"), ENGINE))
    assert {name: len(content) for name, content in files.items()} == {"ones_1": 8, "ones_256": 2048}
    assert files["ones_1"] == b"\x01\0\0\0\0\0\0\0"


def test_a_bundle_whose_gate_was_never_passed_is_refused() -> None:
    bundle = bundle_of("tensorrt", device="cuda")
    object.__setattr__(bundle.manifest.validation, "state", "pending")
    with pytest.raises(BundleError, match="no machine has validated it yet"):
        served(bundle, ENGINE)


def test_a_broken_configuration_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "config.pbtxt"
    path.write_text('name: "a"\nmax_batchsize: 3\n')
    with pytest.raises(InputError, match=r"config.pbtxt: not a model configuration: 2:1.*max_batchsize"):
        read_config(path)


if __name__ == "__main__":
    EXPECTED.mkdir(exist_ok=True)
    for file, text in wanted().items():
        (EXPECTED / file).write_text(text, encoding="utf-8")
