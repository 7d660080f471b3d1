"""The README.md of a bundle: what it is, what was proven, how to use it."""

from __future__ import annotations

from exporter.bundle import Manifest
from exporter.validator.gates import significant
from exporter.validator.report import ParityReport


def model_card(manifest: Manifest, report: ParityReport, modules: str = "") -> str:
    """Return the model card as Markdown.

    Args:
        manifest: The bundle's.
        report: Of its last gate.
        modules: A Markdown table of what each module computes in, where that differs from module to module.
    """
    encoder, engine, source = manifest.encoder, manifest.engine, manifest.source
    commit = f" at commit `{source.commit}`" if source.commit else ""
    gates = "\n".join(
        f"| {verdict.name} | {significant(verdict.value)} | {verdict.relation} {significant(verdict.bound)} |"
        for verdict in report.verdicts
    )
    checks = "\n".join(
        f"| {check.name} | {'passed' if check.passed else 'FAILED'} | {check.coverage} |" for check in report.checks
    )
    tasks = "".join(
        f"\n{score.name} ({score.pairs} pairs): Spearman {score.reference_spearman:.2f} (PyTorch), "
        f"{score.candidate_spearman:.2f} (this bundle).\n"
        for score in report.sts
    )
    published = "".join(
        f"| {score.dataset} | {score.metric} | {score.value:.2f} |\n" for score in manifest.recipe.published
    )
    scores = (
        f"\n## Published scores of the checkpoint\n\n| data set | metric | x100 |\n|---|---|---|\n{published}"
        if published
        else ""
    )
    decisions = "\n".join(f"- {decision}" for decision in manifest.decisions)
    license_line = f"\nLicence of the checkpoint: {manifest.recipe.license}\n" if manifest.recipe.license else ""
    passed = manifest.validation.state == "passed"
    held = (
        "and compared with the PyTorch checkpoint before it was published"
        if passed
        else "and published before any machine had run it: what was compared with the PyTorch checkpoint is its graph"
    )
    padding = (
        "\nPadding stands on the right: attention goes by the number of ones in each row of the mask."
        if engine.facts.right_padded
        else ""
    )
    int8 = (
        "\n`int8.json` has every scale, what each module loses alone and what was tried; `int8.svg` shows what else "
        f"there was to choose.\n\n{modules}"
        if manifest.quantization is not None
        else ""
    )
    return f"""---
library_name: korsbert
pipeline_tag: sentence-similarity
tags: [sentence-transformers, feature-extraction, {engine.backend}, {engine.precision}]
---

# {manifest.recipe.name}, {engine.precision}, {engine.backend}

{encoder.architecture} with {", ".join(encoder.modules[1:])} in one {engine.backend} artifact: token ids and mask in,
sentence vector ({encoder.dimension} float32) out. Made from `{source.checkpoint}`{commit} by korsbert
{manifest.tools.get("korsbert", "")}, {held}.
{license_line}
## Use

```python
import exporter

encoder = exporter.load("path/to/this/folder")
vectors = encoder.encode(["안녕하세요?", "한국어 문장입니다."])  # (2, {encoder.dimension}) float32
```

Inputs `input_ids` and `attention_mask`, int64 (batch, sequence), at most {encoder.max_seq_length} tokens; output
`sentence_embedding`, float32 (batch, {encoder.dimension}).{padding}

## Parity with PyTorch

{len(report.probes)} probes from string to vector, candidate on {report.execution}: {manifest.validation.note}.

| statistic | measured | gate |
|---|---|---|
{gates}

Checks of what sentences do not reach, with what each covered (figures in `parity.json`):

| check | result | coverage |
|---|---|---|
{checks}
{tasks}{scores}
## Decisions

{decisions}
{int8}"""
