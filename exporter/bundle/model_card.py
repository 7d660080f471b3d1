"""The README.md of a bundle: what it is, what was proven, how to use it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from exporter.bundle.manifest import Manifest
from exporter.bundle.snippets import snippets
from exporter.targets import Precision
from exporter.validator.gates import significant
from exporter.validator.report import ParityReport

# What the hub takes as `license` (https://huggingface.co/docs/hub/repositories-licenses). Others become `other`.
_LICENSES = re.compile(
    r"apache-2\.0|mit|isc|zlib|unlicense|wtfpl|ncsa|postgresql|bsl-1\.0|afl-3\.0|artistic-2\.0|ecl-2\.0|ofl-1\.1|osl-3\.0"
    r"|bsd(-2-clause|-3-clause(-clear)?)?|cc0-1\.0|cc-by(-sa|-nc|-nd|-nc-sa|-nc-nd)?-[234]\.0|mpl-2\.0|ms-pl"
    r"|(a|l)?gpl-3\.0|gpl-2\.0|lgpl-2\.1|epl-[12]\.0|eupl-1\.[12]|odc-by|odbl|pddl|gemma|llama(2|3|3\.[123]|4)"
    r"|(bigscience-|creativeml-|bigcode-)?openrail(-m|\+\+)?"
)
_FIGURES = {
    "min_cosine": "min cosine to PyTorch",
    "mean_cosine": "mean cosine to PyTorch",
    "mean_neighbor_overlap": "mean overlap of the ten nearest neighbors with PyTorch's",
}
"""Statistics of a parity report that are results on the card, and how they are called there."""


def model_card(
    manifest: Manifest,
    report: ParityReport,
    *,
    tokenizer: str = "WordPiece",
    int8: Mapping[str, Any] | None = None,
    modules: str = "",
) -> str:
    """Return the model card as Markdown, with the metadata of the Hugging Face Hub in front.

    Args:
        manifest: The manifest of the bundle.
        report: The report of its last gate.
        tokenizer: The kind of its tokenizer, ``"WordPiece"`` for example.
        int8: The content of ``int8.json``, if the bundle has one.
        modules: A Markdown table of the precision of each module, if modules differ in precision.
    """
    encoder, engine = manifest.encoder, manifest.engine
    sections = [
        "\n".join(("---", _metadata(manifest, report), "---")),
        f"# {manifest.recipe.name}, {engine.precision}, {engine.backend}",
        _summary(manifest),
        f"License of the checkpoint: {manifest.recipe.license}" if manifest.recipe.license else "",
        "## Use",
        *snippets(manifest, tokenizer),
        "### Inputs and output",
        f"Inputs `input_ids` and `attention_mask`, int64 (batch, sequence), at most {encoder.max_seq_length} tokens; "
        f"output `sentence_embedding`, float32 (batch, {encoder.dimension}).",
        f"ONNX Runtime must be {engine.least_runtime} or newer." if engine.least_runtime else "",
        "Rows must be padded on the right." if engine.facts.right_padded else "",
        "## Parity with PyTorch",
        *_parity(manifest, report),
        *_published(manifest),
        "## Decisions",
        "\n".join(f"- {decision}" for decision in manifest.decisions),
        *_int8(int8, modules),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _metadata(manifest: Manifest, report: ParityReport) -> str:
    """Return what the Hugging Face Hub reads of a card."""
    engine, source, recipe = manifest.engine, manifest.source, manifest.recipe
    on_hub = source.commit is not None  # a folder has no name there
    # The engine of a pending bundle has not been measured: the report is about the graph that it was built from.
    results = list(_results(report)) if manifest.validation.state == "passed" else []
    data = ModelCardData(
        library_name="korsbert",
        pipeline_tag="sentence-similarity",
        language=["multilingual" if code == "mul" else code for code in recipe.languages] or None,
        tags=[
            "sentence-transformers",
            "feature-extraction",
            *(["onnx"] if engine.backend == "onnxruntime" else []),
            str(engine.backend),
            str(engine.precision),
        ],
        base_model=source.checkpoint if on_hub else None,
        # The hub knows no relation for a conversion that keeps float32.
        base_model_relation="quantized" if on_hub and engine.precision is not Precision.FP32 else None,
        model_name=recipe.name if results else None,
        eval_results=results or None,
        **_license(recipe.license),
    )
    text: str = data.to_yaml()
    return text


def _license(name: str | None) -> dict[str, Any]:
    if name is None:
        return {}
    known = _LICENSES.fullmatch(name.lower())
    return {"license": name.lower()} if known else {"license": "other", "license_name": name.lower()}


def _results(report: ParityReport) -> Iterator[EvalResult]:
    """Yield the scores of both sides, and how near the vectors are, in the form that the hub reads."""
    for score in report.sts:
        sides = (("this bundle", score.candidate_spearman), ("the checkpoint in PyTorch", score.reference_spearman))
        for side, value in sides:
            yield EvalResult(
                task_type="sentence-similarity",
                dataset_type=score.name,
                dataset_name=score.name,
                metric_type="spearman",
                metric_name=f"Spearman x100, {side}",
                metric_value=round(value, 2),
            )
    for name, told in _FIGURES.items():
        if name in report.statistics:
            yield EvalResult(
                task_type="sentence-similarity",
                dataset_type="korsbert-probes",
                dataset_name="probes of korsbert",
                metric_type=name,
                metric_name=told,
                metric_value=round(float(report.statistics[name]), 8),
            )


def _summary(manifest: Manifest) -> str:
    encoder, source = manifest.encoder, manifest.source
    commit = f" at commit `{source.commit}`" if source.commit else ""
    compared = (
        "It was compared with the PyTorch checkpoint before it was published."
        if manifest.validation.state == "passed"
        else "It was published before any machine had run it: only its graph was compared with the PyTorch checkpoint."
    )
    return (
        f"{encoder.architecture} with {', '.join(encoder.modules[1:])} in one {manifest.engine.backend} artifact: "
        f"token ids and mask in, sentence vector ({encoder.dimension} float32) out. Made from "
        f"`{source.checkpoint}`{commit} by korsbert {manifest.tools.get('korsbert', '')}. {compared}"
    )


def _parity(manifest: Manifest, report: ParityReport) -> tuple[str, ...]:
    bounds = (
        (verdict.name, significant(verdict.value), f"{verdict.relation} {significant(verdict.bound)}")
        for verdict in report.verdicts
    )
    checks = ((check.name, check.result, check.coverage) for check in report.checks)
    scores = (
        f"{score.name} ({score.pairs} pairs): Spearman {score.reference_spearman:.2f} (PyTorch), "
        f"{score.candidate_spearman:.2f} (this bundle)."
        for score in report.sts
    )
    return (
        f"{report.coverage}, from string to vector on {report.execution}: {manifest.validation.note}.",
        _table(("statistic", "measured", "gate"), bounds),
        "Checks of what sentences do not reach, and what each check covered (figures in `parity.json`):",
        _table(("check", "result", "coverage"), checks),
        *scores,
    )


def _published(manifest: Manifest) -> tuple[str, ...]:
    scores = [(score.dataset, score.metric, f"{score.value:.2f}") for score in manifest.recipe.published]
    return ("## Published scores of the checkpoint", _table(("data set", "metric", "x100"), scores)) if scores else ()


def _int8(int8: Mapping[str, Any] | None, modules: str) -> tuple[str, ...]:
    """Return which candidate was chosen, as in ``int8.json`` and the plot, and the tables of candidates and modules."""
    if int8 is None:
        return ()
    (chosen,) = (one for one in int8["candidates"] if one["result"] == "chosen")
    matmuls, found = int8["matmuls"], chosen["engine"]
    quantized = sum(matmul["precision"] == "int8" for matmul in matmuls)
    told = (
        f"This bundle is candidate {chosen['label']}: {quantized} of {len(matmuls)} MatMuls are in int8, and "
        f"{chosen['share_excluded']:.1%} of the multiplications are excluded. On "
        f"{int8['calibration']['held_out']} held-out texts, the engine has a min cosine of {found['min_cosine']:.4f} "
        f"and a mean cosine of {found['mean_cosine']:.4f} to float32. By the model of speed, its MatMuls are "
        f"{1 / chosen['relative_time']:.2f} times as fast as in {int8['scheme']['fallback_dtype']}."
    )
    plot = "![Loss of the candidates against the modeled speed of their MatMuls.](int8.svg)"
    listed = "`int8.json` lists every scale, the loss of each module on its own, and what was tried."
    return "## INT8", told, plot, listed, modules.strip()


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ("---",) * len(header), *rows))
