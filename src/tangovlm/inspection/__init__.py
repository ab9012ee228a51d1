"""Pictures and figures of what a vision encoder attends to and of what methods keep, as in the Tango paper.

Each module measures one kind of picture (a function that returns the numbers), and draws it (a function that needs
matplotlib). Signals and selections are those of `tangovlm.attach`; the language model does not run.
"""
