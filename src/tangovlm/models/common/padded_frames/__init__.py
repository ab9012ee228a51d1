"""Encoders whose frames are sequences of patches, padded to one length."""
