"""The synthetic world that the embedded model was trained on."""
