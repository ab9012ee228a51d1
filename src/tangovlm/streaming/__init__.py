"""Videos of any length in a fixed number of tokens: frames arrive, questions come at any time."""
