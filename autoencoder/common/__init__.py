"""What both stages and every command stand on: files, seeds, processes, devices, cost, run folders, optimisers."""
