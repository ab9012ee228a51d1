"""The internals of vLLM that the plug-in uses, and their comparison with the installed release."""
