"""A bundle is served without what made it: no torch, no transformers, no onnx."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import numpy as np
import pytest

import exporter
from tests.conftest import ROOT, Shared
from tests.support.process import Done, refused, run_program, split_stages, succeeded

SENTENCES = [
    "서랍 속에서 오래된 편지를 찾았다.",
    "",
    "기차가 터널을 지나자 바다가 보였다. " * 40,
    "The kettle whistled twice.",
    "뭐?",
]
EXPORT_ONLY = ("torch", "transformers", "sentence_transformers", "onnx", "onnx_ir", "onnxscript", "optimum", "scipy")

ENCODE = """
import json, sys
import numpy, exporter
bundle, sentences, out = sys.argv[1:]
with exporter.load(bundle) as encoder:
    numpy.save(out, encoder.encode(json.loads(sentences)))
print(json.dumps(sorted(sys.modules)))
"""


@pytest.fixture(scope="session")
def runtime(shared: Shared) -> Path:
    """The Python of an environment with the base and ``[cpu]`` of korsbert, and nothing else."""

    def fill(folder: Path) -> None:
        # What is on the path of this run must not leak into that environment.
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        python = folder / "venv" / "bin" / "python"
        # The versions of this environment: vectors are compared, and engines of two versions round differently.
        constraints = folder / "constraints.txt"
        constraints.write_text(
            "".join(f"{one.name}=={one.version}\n" for one in distributions() if one.name != "korsbert")
        )
        install: list[str | Path] = [
            python,
            "-m",
            "pip",
            "install",
            "-q",
            "-c",
            constraints,
            f"{ROOT}[cpu]",
        ]
        done = subprocess.run(install, capture_output=True, text=True, env=_clean_environment(), check=False)
        assert done.returncode == 0, done.stderr

    return shared("runtime", fill) / "venv" / "bin" / "python"


def _clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}


def run(runtime: Path, *arguments: str | Path, cwd: Path, stdin: bytes = b"") -> Done:
    return run_program([runtime, *arguments], cwd=cwd, stdin=stdin, environment=_clean_environment())


@pytest.mark.parametrize("bundle", ["demo_fp32", "demo_fp16"])
def test_vectors_are_those_of_the_full_environment(
    request: pytest.FixtureRequest, runtime: Path, bundle: str, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(bundle)
    out = tmp_path / "vectors.npy"
    done = run(runtime, "-c", ENCODE, folder, json.dumps(SENTENCES), out, cwd=tmp_path)
    assert (done.status, done.stderr) == (0, "")
    with exporter.load(folder) as encoder:
        np.testing.assert_allclose(np.load(out), encoder.encode(SENTENCES), atol=1e-6, rtol=0)
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert loaded & set(EXPORT_ONLY) == set()


def test_that_environment_has_nothing_of_the_export(runtime: Path, tmp_path: Path) -> None:
    code = f"from importlib.util import find_spec; print([n for n in {EXPORT_ONLY} if find_spec(n)])"
    assert run(runtime, "-c", code, cwd=tmp_path).stdout == "[]\n"
    assert str(ROOT) not in run(runtime, "-c", "import exporter; print(exporter.__file__)", cwd=tmp_path).stdout


def test_korsbert_is_a_package_of_the_wheel(runtime: Path, tmp_path: Path) -> None:
    code = "import korsbert; korsbert.load; print(korsbert.__file__); print(*korsbert.__all__)"
    where, names = run(runtime, "-c", code, cwd=tmp_path).stdout.splitlines()
    assert Path(where).parts[-3:] == ("site-packages", "korsbert", "__init__.py")
    assert names.split() == exporter.__all__
    assert Path(where).with_name("py.typed").is_file()


def test_commands_there(runtime: Path, twin_bundle: Path, tmp_path: Path) -> None:
    korsbert = runtime.with_name("korsbert")
    shown = run_program([korsbert, "show", twin_bundle], cwd=tmp_path, environment=_clean_environment())
    assert (shown.status, shown.stderr) == (0, "")
    assert "all hashes match" in shown.stdout
    listed = run_program([korsbert, "list"], cwd=tmp_path, environment=_clean_environment())
    assert (listed.status, listed.stderr) == (0, "")
    assert "demo" in listed.stdout
    encoded = run_program(
        [korsbert, "encode", twin_bundle], cwd=tmp_path, stdin="가\n나\n".encode(), environment=_clean_environment()
    )
    assert (encoded.status, encoded.stderr) == (0, "")
    assert len(encoded.stdout.splitlines()) == 2


def test_a_golden_file_judges_there(runtime: Path, demo_fp32: Path, demo_fp16: Path, tmp_path: Path) -> None:
    exporter.write_golden("demo", tmp_path / "demo.golden")
    for bundle in (demo_fp32, demo_fp16):
        command = [runtime.with_name("korsbert"), "validate", bundle, "--golden", tmp_path / "demo.golden", "--json"]
        done = run_program(command, cwd=tmp_path, environment=_clean_environment())
        succeeded(done)
        found = json.loads(done.stdout)
        with_torch = exporter.validate(bundle, golden=tmp_path / "demo.golden")
        assert found["statistics"]["min_cosine"] == pytest.approx(with_torch.statistics["min_cosine"], abs=1e-9)
        assert [verdict["name"] for verdict in found["verdicts"]] == [one.name for one in with_torch.verdicts]


def test_bundles_and_arrays_are_compared_there(runtime: Path, demo_fp32: Path, demo_fp16: Path, tmp_path: Path) -> None:
    """Also with a task set, which needs no scipy; without pyarrow, Parquet is refused in a sentence."""
    rows = [f"{first}\t{second}\t{number % 3}" for number, first in enumerate(SENTENCES) for second in SENTENCES[::2]]
    lines = [line for line in rows if "\t\t" not in line and not line.startswith("\t")]
    (tmp_path / "sts.tsv").write_text("\n".join(["sentence1\tsentence2\tscore", *lines]), encoding="utf-8")
    korsbert = runtime.with_name("korsbert")
    command = [korsbert, "compare", demo_fp32, demo_fp16, "--no-speed", "--sts", "sts.tsv", "--json"]
    done = run_program(command, cwd=tmp_path, environment=_clean_environment())
    assert split_stages(done.stderr)[1] == ""
    found = json.loads(done.stdout)
    missed = [verdict["name"] for verdict in found["verdicts"] if not verdict["passed"]]
    assert missed in ([], ["Spearman drop on sts.tsv"]), "so few pairs make up a score of no meaning"
    with_torch = exporter.compare(demo_fp32, demo_fp16, speed=False, sts=[tmp_path / "sts.tsv"]).to_dict()
    assert found["statistics"]["min_cosine"] == pytest.approx(with_torch["statistics"]["min_cosine"], abs=1e-9)
    assert found["sts"][0]["candidate_spearman"] == pytest.approx(with_torch["sts"][0]["candidate_spearman"], abs=1e-6)
    np.save(tmp_path / "a.npy", np.random.default_rng(0).standard_normal((60, 8)))
    done = run_program([korsbert, "compare", "a.npy", "a.npy"], cwd=tmp_path, environment=_clean_environment())
    succeeded(done)
    done = run_program([korsbert, "compare", "a.npy", "b.parquet"], cwd=tmp_path, environment=_clean_environment())
    refused(done, 3, "pyarrow is not installed", "pip install 'korsbert[embed]'")


@pytest.mark.parametrize(
    "arguments",
    [
        ("export", "--model", "demo"),
        ("validate", "BUNDLE"),
        ("golden", "demo", "--out", "x"),
        ("bench", "BUNDLE", "--against", "torch"),
    ],
)
def test_what_needs_torch_says_how_to_get_it(
    runtime: Path, twin_bundle: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    command = [str(twin_bundle) if argument == "BUNDLE" else argument for argument in arguments]
    done = run_program([runtime.with_name("korsbert"), *command], cwd=tmp_path, environment=_clean_environment())
    refused(done, 3, "torch is not installed", "pip install 'korsbert[export]'")
    assert list(tmp_path.iterdir()) == []


def test_an_import_of_it_anywhere_would_show_here_too(twin_bundle: Path, tmp_path: Path) -> None:
    """The cheap variant: this environment, with the imports blocked."""
    block = f"import sys; sys.modules.update(dict.fromkeys({EXPORT_ONLY}));"
    done = run_program(
        [sys.executable, "-c", block + ENCODE, twin_bundle, json.dumps(SENTENCES), tmp_path / "vectors.npy"]
    )
    assert (done.status, done.stderr) == (0, "")
    with exporter.load(twin_bundle) as encoder:
        np.testing.assert_array_equal(np.load(tmp_path / "vectors.npy"), encoder.encode(SENTENCES))


def test_importing_the_package_brings_in_next_to_nothing() -> None:
    code = "import sys; before = set(sys.modules); import exporter; print(sorted(set(sys.modules) - before))"
    done = run_program([sys.executable, "-c", code])
    assert done.status == 0
    loaded = {name.partition(".")[0] for name in eval(done.stdout)}
    assert (
        loaded & {*EXPORT_ONLY, "numpy", "onnxruntime", "tokenizers", "pydantic", "typer", "huggingface_hub"} == set()
    )
