"""One encoding of a video for many questions."""
