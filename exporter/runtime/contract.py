"""The names every engine and client meets: two inputs, one output."""

INPUTS = ("input_ids", "attention_mask")
OUTPUT = "sentence_embedding"
