"""Trackers: where a training's curves are shown besides its own log, one file each.

A tracker is a module with `PACKAGE` (what must be installed), `EXTRA` (which of our extras installs it) and
``start(folder, title)``, which returns a `protocols.Tracker`. Its file name is its name after ``--track``. It is told
every step of the training from the first, those before a resume too, so it begins afresh and repeats nothing.
"""
