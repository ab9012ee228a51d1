"""Models that vLLM runs in place of its own: subclasses that prune videos."""
