"""The control plane: who may send, and what may be sent. One file per resource; routes/ is its HTTP face.

From the ground up: operators.py; mutations.py, lookup.py and pages.py, which write, find and list the rows of all
resources; one file per resource; routes/, which alone knows HTTP. Imports run downhill only.
"""
