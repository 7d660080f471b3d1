"""The models korsbert ships recipes for, one YAML each."""
