"""The models that vLLM runs in place of its own."""
