"""The networks of FocusNetv2, free of files, geometry and training."""
