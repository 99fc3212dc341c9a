"""One module per verb; each takes an open repository and leaves it good whenever it is stopped.

Verbs are imported from their modules: a function here would share its name with one.
"""
