"""Data, one kind a file. Every data set is a pure function of its configuration and a seed, or of files and their hash."""
