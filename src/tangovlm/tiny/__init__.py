"""The embedded Video LLM `tangovlm-tiny`: its weights, the synthetic world it knows, and the recipe that trains it."""
