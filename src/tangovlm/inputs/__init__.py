"""From frames and chat to model inputs: pixels, prompts, timestamps."""
