"""A web page that asks a model about videos, shows what was kept, and compares methods: `tangovlm app`.

`engine.py` owns the model and answers the questions of all open pages; `web/` serves the page and is the only part that
uses Gradio; `views/` writes the HTML of answers and frames.
"""
