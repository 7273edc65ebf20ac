"""Shared by both stages and all commands: files, seeds, processes, devices, cost, run folders, optimisers."""
