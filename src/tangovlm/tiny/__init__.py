"""The embedded Video LLM `tangovlm-tiny`: its weights, the synthetic world, and the training recipe."""
