"""One file per model family: how a stock model makes its video features, and which signals its vision encoder gives."""
