"""The harnesses that `tangovlm reproduce` runs."""
