"""The ground of every run: its folder, files, configuration, random streams, errors."""
