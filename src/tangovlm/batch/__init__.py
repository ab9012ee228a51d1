"""Questions about a corpus of clips: rows in, answers out, whatever engine gives them and however often it is killed.

rows (what is asked) -> run (what is missing) -> an engine (one file each) -> output (what is answered)
"""
