"""The models korsbert ships recipes for, one YAML each, and the twins that stand in for them in tests."""
