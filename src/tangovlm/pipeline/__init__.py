"""From a video file and a question to an answer."""
