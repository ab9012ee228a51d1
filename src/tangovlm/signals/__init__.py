"""What is known about a token besides its value: similarity over time, position, saliency, sinks."""
