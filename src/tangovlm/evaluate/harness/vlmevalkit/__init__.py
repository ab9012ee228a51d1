"""The launcher for VLMEvalKit."""
