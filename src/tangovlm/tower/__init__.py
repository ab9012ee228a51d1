"""Between decoded frames and a method: which frames the vision encoder runs on."""
