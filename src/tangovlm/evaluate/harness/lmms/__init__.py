"""The plug-in for lmms-eval."""
