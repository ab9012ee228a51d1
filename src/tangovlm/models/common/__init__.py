"""The parts of a model family: layout of features, signals of the encoder, prompt format."""
