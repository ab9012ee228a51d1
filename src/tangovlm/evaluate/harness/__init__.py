"""Plug-ins for public evaluation harnesses."""
