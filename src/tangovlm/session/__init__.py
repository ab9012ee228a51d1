"""What happens inside the calls of an attached model; `attach.py` describes one call."""
