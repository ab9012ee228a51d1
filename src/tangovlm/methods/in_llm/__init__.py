"""One file per method that prunes between the layers of the language model."""
