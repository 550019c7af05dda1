"""trilab's launchers. Hydra looks for plugins in this namespace package and nowhere else.

A launcher imports its own package when it launches, never before: Hydra imports every plugin for every command.
"""
