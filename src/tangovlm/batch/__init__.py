"""Answers questions about a corpus of clips, resumable.

corpus (questions) -> run (which are not answered yet) -> an engine (one file each) -> output (file of answers)
"""
