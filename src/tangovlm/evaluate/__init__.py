"""The benchmark `tangoworld`: questions about synthetic clips, asked of one model under many methods."""
