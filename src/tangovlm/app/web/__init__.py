"""The server and its page: `page.py` lays it out with Gradio, `handlers.py` connects it with the engine."""
