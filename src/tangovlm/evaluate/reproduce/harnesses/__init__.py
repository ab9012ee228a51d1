"""Evaluation harnesses as `tangovlm reproduce` uses them: the command of a row, and its results."""
