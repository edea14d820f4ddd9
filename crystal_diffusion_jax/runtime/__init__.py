"""What a run needs of its machine: devices, processes, files, caches, workers."""
