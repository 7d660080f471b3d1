"""The names every engine and client meets: two inputs, one output, and the types that vectors are stored in."""

from typing import Literal, get_args

INPUTS = ("input_ids", "attention_mask")
OUTPUT = "sentence_embedding"

VectorType = Literal["float32", "float16", "int8", "uint8", "binary", "ubinary"]
VECTOR_TYPES: tuple[VectorType, ...] = get_args(VectorType)
