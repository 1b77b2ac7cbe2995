"""The control plane: who may send, and what may be sent. One file per resource; routes/ is its HTTP face."""
