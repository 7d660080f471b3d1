"""Rules about the steps of an ensemble and the models that they name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from exporter.serving.triton.config import FILE
from exporter.serving.triton.facts import is_name
from exporter.serving.triton.lint.model import Finding, Model, Repository, type_name


def check_steps(model: Model, repository: Repository) -> Iterator[Finding]:
    """Compare the steps of an ensemble with the models that they name."""
    known: dict[str, tuple[str, list[int]]] = {
        tensor.name: (type_name(tensor), list(tensor.dims)) for tensor in model.config.input
    }
    for number, step in enumerate(model.config.ensemble_scheduling.step):
        field = f"ensemble_scheduling.step[{number}]"
        member = repository.models.get(step.model_name)
        if member is None and is_name(step.model_name) and (model.folder.parent / step.model_name / FILE).is_file():
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
                known[target] = (type_name(outputs[name]), list(outputs[name].dims))
    for tensor in model.config.output if model.backend == "ensemble" else ():
        yield from _edge(model, f"output[{tensor.name}]", tensor, tensor.name, known)


def _step_version(model: Model, field: str, step: Any, member: Model) -> Iterator[Finding]:
    if step.model_version != -1 and step.model_version not in member.served_versions:
        yield model.finding(
            f"{field}.model_version",
            step.model_version,
            " or ".join(map(str, member.served_versions)) or "a version that is served",
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
    elif known[source][0] != type_name(tensor):
        yield model.finding(field, known[source][0], type_name(tensor), "both ends must have one type")
    elif not _meet(known[source][1], list(tensor.dims)):
        yield model.finding(field, known[source][1], list(tensor.dims), "both ends must have one shape")


def _meet(first: Sequence[int], second: Sequence[int]) -> bool:
    return len(first) == len(second) and all(a == b or -1 in (a, b) for a, b in zip(first, second, strict=True))
