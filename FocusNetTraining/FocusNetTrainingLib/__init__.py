"""The Slicer side of training and evaluation."""
