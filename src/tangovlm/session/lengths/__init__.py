"""Lengths of pruned prompts, known before encoding, and the model's context."""
