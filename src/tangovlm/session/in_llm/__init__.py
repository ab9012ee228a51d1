"""Runs a method between the layers of a stock text model."""
