"""Answers questions about a corpus of clips, with any engine; a killed command continues where it stopped.

corpus (questions) -> run (which are not answered yet) -> an engine (one file each) -> output (file of answers)
"""
