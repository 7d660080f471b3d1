"""Whether a node belongs to the module that a parameter belongs to.

A node is called after its module: ``layer.3.attention.self.query/MatMul`` reads
``0.model.encoder.layer.3.attention.self.query.weight``. A layer that is used several times (ALBERT) has one set of
parameters, and its nodes are numbered by use. Operations of a module that holds others, the sum of three embeddings for
one, are called after the outer module.
"""

from __future__ import annotations

import re

_SHARED = re.compile(r"(?:^|.*\.)albert_layer_groups\.(?P<group>\d+)\.albert_layers\.(?P<layer>\d+)(?:\.|$)")
_LAYER = re.compile(r"(?:^|.*?\.)(?:layers?|block)\.(?P<layer>\d+)(?:\.|$)")
_GROUP_USE = re.compile(r"group\.(\d+)\.(\d+)\.use\.\d+(?:\.|$)")
_USE = re.compile(r"layer\.(\d+)(?:\.|$)")
# DeBERTa's vectors of distances are a parameter of the encoder: its LayerNorm reads them, or every layer's attention.
_DISTANCES = "encoder.rel_embeddings"
_READS_DISTANCES = re.compile(r"encoder(\.LayerNorm)?|layer\.\d+\.attention\.self(\.(pos_)?(query|key)_proj)?")


def module_of(node: str) -> str | None:
    """Return the module that a node is called after, or None where its name says none."""
    module, slash, _ = node.partition("/")  # more slashes where a node was added beside another: "layer.0/Gelu/Mul"
    return module if slash and module not in {"", "inputs"} else None


def belongs(module: str, parameter: str) -> bool:
    """Whether ``parameter`` (as ``SentenceTransformer.named_parameters`` calls it) is one of ``module``."""
    index, _, path = parameter.rpartition(".")[0].partition(".")
    if index != "0":
        return _is_inside(f"module.{index}.{path}", module)
    path = re.sub(r"^(auto_)?model\.", "", path)
    if path == _DISTANCES:
        return _READS_DISTANCES.fullmatch(module) is not None
    shared, layer = _SHARED.match(path), _LAYER.match(path)
    if shared is not None:
        group = _GROUP_USE.match(module)
        use = _USE.match(module)
        if group is not None:
            return group.groups() == shared.groups() and _is_inside(path[shared.end() :], module[group.end() :])
        return use is not None and _is_inside(path[shared.end() :], module[use.end() :])
    if layer is not None:
        use = _USE.match(module)
        return use is not None and use[1] == layer["layer"] and _is_inside(path[layer.end() :], module[use.end() :])
    return _is_inside(path, module)


def _is_inside(path: str, module: str) -> bool:
    return not module or path == module or path.startswith(f"{module}.")
