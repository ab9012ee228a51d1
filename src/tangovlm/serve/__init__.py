"""Serving on vLLM: a plug-in that prunes videos inside its own models, and the commands around it."""
