"""Arguments of the text model that pruning changes."""
