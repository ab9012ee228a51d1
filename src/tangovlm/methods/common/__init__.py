"""Shared parts of the methods: segments, similarity, ST-RoPE, clustering, merging."""
